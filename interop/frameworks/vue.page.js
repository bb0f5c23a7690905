import { createApp, shallowRef } from "vue";
import { useStream, useTopic } from "./use_topic.vue.js";

const Messages = {
  props: ["topic"],
  setup: (props) => ({ state: useStream(), all: useTopic(() => props.topic) }),
  template: `<section><p>{{ state.phase }}</p><ul><li v-for="({ text }) of all">{{ text }}</li></ul></section>`,
};

const wanted = shallowRef([]);
let app;

globalThis.show = (topics) => {
  wanted.value = topics;
  if (app) return;
  app = createApp({ components: { Messages }, setup: () => ({ wanted }), template: `<Messages v-for="(topic, at) of wanted" :key="at" :topic="topic" />` });
  app.mount("#app");
};
globalThis.unmount = () => {
  app.unmount();
  app = undefined;
};
