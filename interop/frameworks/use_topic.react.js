import { useEffect, useReducer, useSyncExternalStore } from "react";
import { stream } from "./stream.js";

export const useStream = () => useSyncExternalStore(stream.subscribe, () => stream.state);

export function useTopic(topic) {
  const [all, add] = useReducer((all, { json }) => [...all, json], []);
  useEffect(() => stream.topic(topic, add), [topic]);
  return all;
}
