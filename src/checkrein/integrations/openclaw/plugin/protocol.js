// What is said to Checkrein about one tool call: an AuthZEN evaluation. Values in, values out.

// Tool Search hides most tools behind one: `tool_call {id, args}` fires the hook, then the tool itself fires it again,
// under an id that names the first one.
const WRAPPER = "tool_call";
const INNER = /^tool_search_code:(.+):([^:]+):(\d+)$/;
// These tools bear the name of an action group in policies, so policies know them by another.
const NAMES = { read: "read_file", write: "write_file" };
const TURN = /(turn_[0-9a-f]{48})$/;

// JSON with sorted members: equal arguments are equal text.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const members = Object.keys(value).sort().filter((name) => value[name] !== undefined);
  return `{${members.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
}

// The tool that is really called, its name in policies, its arguments, how to put others in their place, and the call it came through.
export function unwrap(event, names) {
  const params = event.params ?? {};
  const { id, args } = params;
  if (event.toolName === WRAPPER && typeof id === "string" && (args === undefined || isObject(args))) {
    const tool = id.slice(id.lastIndexOf(":") + 1);
    return { tool, name: named(tool, names), input: args ?? {}, wraps: true, parent: "", wrap: (input) => ({ ...params, args: input }) };
  }
  const inner = INNER.exec(event.toolCallId ?? "");
  const parent = inner && inner[2] === event.toolName ? inner[1] : "";
  return { tool: event.toolName, name: named(event.toolName, names), input: params, wraps: false, parent, wrap: (input) => input };
}

function named(tool, names) {
  if (Object.hasOwn(names, tool)) return names[tool];
  return Object.hasOwn(NAMES, tool) ? NAMES[tool] : tool;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// The person behind the session, by the handle Checkrein gave as `user`; without one the agent speaks for itself.
export function subject(sessionKey, agent) {
  const turn = TURN.exec(sessionKey ?? "");
  return turn ? { type: "turn", id: turn[1] } : { type: "agent", id: agent || "openclaw" };
}

export function request(call, id, event, ctx, gateway) {
  const agent = ctx.agentId || "main";
  return {
    subject: subject(ctx.sessionKey, agent),
    action: { name: call.name, properties: { input: call.input } },
    resource: { type: "tool", id: call.name },
    context: {
      agent: { id: agent },
      session: ctx.sessionKey ?? "",
      supported_obligations: ["custom"],
      openclaw: {
        gateway,
        call: id,
        tool: call.tool,
        run: event.runId ?? ctx.runId ?? "",
        trace: ctx.trace?.traceId ?? "",
      },
    },
  };
}
