import { onScopeDispose, shallowRef, watchEffect } from "vue";
import { stream } from "./stream.js";

export function useStream() {
  const state = shallowRef(stream.state);
  onScopeDispose(stream.subscribe((next) => (state.value = next)));
  return state;
}

export function useTopic(topic) {
  const all = shallowRef([]);
  watchEffect((onCleanup) => onCleanup(stream.topic(topic(), ({ json }) => (all.value = [...all.value, json]))));
  return all;
}
