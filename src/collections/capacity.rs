//! Shrinking collections.

/// Returns a smaller capacity, if a collection has become much smaller than it was.
///
/// So the memory of a flood is freed: the result is `Some` for more than 64 slots of which less than a quarter is used.
pub(crate) fn shrunk_capacity(len: usize, capacity: usize) -> Option<usize> {
    (capacity > 64 && len < capacity / 4).then_some(len * 2)
}
