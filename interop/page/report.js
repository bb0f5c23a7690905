/// The stream that the page follows, and how many times at once.
export const { url, types, times } = JSON.parse(decodeURIComponent(location.hash.slice(1)));

export const tell = (observation) => say(JSON.stringify(observation));
