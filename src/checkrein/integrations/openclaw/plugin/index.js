// Asks Checkrein before every tool call of this OpenClaw Gateway. Plain JavaScript, no dependency.
//
// Two tiers stand guard. The trusted tool policy runs first and decides. The ordinary `before_tool_call` hook lets
// pass, once, exactly what that tier let pass, and decides itself what it never saw; so one call is one question.
import { Governor } from "./governor.js";

export default {
  id: "checkrein",
  name: "Checkrein",
  description: "Asks Checkrein before every tool call; blocks what it does not allow.",
  register(api) {
    const governor = new Governor(api.pluginConfig ?? {});
    const policy = (event, ctx) => governor.decide(event, ctx);
    api.registerTrustedToolPolicy({ id: "checkrein", description: "Checkrein decides", evaluate: policy });
    // last of all hooks
    api.on("before_tool_call", (event, ctx) => governor.check(event, ctx), { priority: -1000 });
    api.on("after_tool_call", (event, ctx) => void governor.report(event, ctx));
    let beat;
    api.registerService({
      id: "checkrein-heartbeat",
      start() {
        void governor.beat();
        beat = setInterval(() => void governor.beat(), governor.config.heartbeatMs);
      },
      stop() {
        clearInterval(beat);
      },
    });
  },
};
