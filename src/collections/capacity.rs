//! Room that is given back.

/// The capacity that is enough for a collection that has become much smaller than it was, so that what it grew to for a
/// flood is given back.
pub(crate) fn spacious(len: usize, capacity: usize) -> Option<usize> {
    (capacity > 64 && len < capacity / 4).then_some(len * 2)
}
