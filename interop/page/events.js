/// Follows a stream. An event without a type is a `message`; all other types are named, or they are not seen.
export function follow(url, types, { onEvent, onOpen = () => {}, onAway = () => {}, onOver = () => {} }) {
  const source = new EventSource(url);
  for (const type of ["message", ...types]) source.addEventListener(type, onEvent);
  source.onopen = onOpen;
  // It comes back by itself, unless it is closed: by a 204, or by any other status.
  source.onerror = () => (source.readyState === EventSource.CLOSED ? onOver() : onAway());
}
