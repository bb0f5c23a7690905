//! Reads any bytes as choices. When the bytes are used up, every choice is the first.

/// Bytes that are likely to be mistaken for something else.
const TROUBLE: [&[u8]; 27] = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\r\r",
    b"\n\r",
    b"\0",
    b"\xEF\xBB\xBF",
    b"\xEF",
    b"\xBB",
    b"\xEF\xBB",
    b":",
    b" ",
    b"/",
    b"*",
    b"**",
    b"$",
    b"-",
    b"data: x",
    b"data",
    b"id: 666",
    b"event: x",
    b"retry: 5",
    b": c\n",
    b"\xC2\x85",
    "é👍".as_bytes(),
    b"\"\\",
];

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// A number of 16 bits, often near either end of 64 bits.
    pub(crate) fn number(&mut self) -> u64 {
        let kind = self.byte();
        let number = u64::from(u16::from_be_bytes([self.byte(), self.byte()]));
        match kind % 4 {
            0 | 1 => number % 32,
            2 => number,
            _ => u64::MAX - number % 4,
        }
    }

    /// At most as many bytes as are left.
    pub(crate) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// A few bytes as they are, trouble, or a long piece.
    pub(crate) fn piece(&mut self) -> Vec<u8> {
        match usize::from(self.byte()) {
            length @ 0..128 => self.bytes(length % 48).to_vec(),
            known @ 128..224 => TROUBLE[known % TROUBLE.len()].to_vec(),
            long => [&b"y"[..], b":\n", b":\r\n", b"a/"][long % 4].repeat(16 + usize::from(self.byte())),
        }
    }

    pub(crate) fn pieces(&mut self) -> Vec<u8> {
        (0..self.below(5)).flat_map(|_| self.piece()).collect()
    }

    pub(crate) fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.pieces()).into_owned()
    }
}
