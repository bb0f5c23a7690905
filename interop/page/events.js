/// Follows a stream. An event without a type is a `message`. List all other types in `types`, or the page does not get them.
export function follow(url, types, { onEvent, onOpen = () => {}, onAway = () => {}, onOver = () => {} }) {
  const source = new EventSource(url);
  for (const type of ["message", ...types]) source.addEventListener(type, onEvent);
  source.onopen = onOpen;
  // It reconnects by itself, unless a 204 or any other status has closed it.
  source.onerror = () => (source.readyState === EventSource.CLOSED ? onOver() : onAway());
}
