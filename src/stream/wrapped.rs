/// Marks a response whose body an [`SseLayer`](crate::SseLayer) has made. It is in the extensions.
///
/// An outer layer leaves such a response unchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrapped;
