/// What the page is to follow, and how often at the same time.
export const { url, types, times } = JSON.parse(decodeURIComponent(location.hash.slice(1)));

export const tell = (observation) => say(JSON.stringify(observation));
