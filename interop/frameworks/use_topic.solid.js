import { createSignal, from, onCleanup } from "solid-js";
import { stream } from "./stream.js";

export const useStream = () => from(stream);

export function useTopic(topic) {
  const [all, set] = createSignal([]);
  onCleanup(stream.topic(topic, ({ json }) => set((all) => [...all, json])));
  return all;
}
