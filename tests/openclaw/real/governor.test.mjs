// The plugin's own rules, against a stand-in for Checkrein: a fake that answers what it is told to.
import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const { Governor } = await import(pathToFileURL(`${process.env.PLUGIN}/governor.js`));

const CTX = { agentId: "main", sessionKey: "agent:main:openai-user:turn_" + "a".repeat(48), runId: "run-1" };
const EXEC = { toolName: "exec", params: { command: "date" }, runId: "run-1", toolCallId: "call_1" };

function governed(answers, config = {}) {
  const asked = [];
  const fetch = async (url, given) => {
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    asked.push({ url: String(url), body: given.body && JSON.parse(given.body) });
    if (answer instanceof Error) throw answer;
    return { status: answer.status ?? 200, json: async () => answer, body: { cancel: async () => {} } };
  };
  const given = { url: "http://checkrein", key: "crk_x", gateway: "claw", protect: ["/srv/gateway"], ...config };
  return { governor: new Governor(given, { fetch }), asked };
}

const decision = (outcome, context = {}) => ({
  decision: outcome === "allow" || outcome === "allow_with_redaction",
  context: { outcome, reasons: [outcome], ...context },
});

async function both(governor, event) {
  const first = await governor.decide(event, CTX);
  if (first?.block) return first;
  return (await governor.check(first?.params ? { ...event, params: first.params } : event, CTX)) ?? first;
}

test("one call is one question", async () => {
  const { governor, asked } = governed([decision("allow")]);
  assert.equal(await both(governor, EXEC), undefined);
  assert.equal(asked.length, 1);
  assert.deepEqual(asked[0].body.subject, { type: "turn", id: "turn_" + "a".repeat(48) });
});

test("the same id again, with the same arguments, is asked again", async () => {
  const { governor, asked } = governed([decision("allow"), decision("deny")]);
  assert.equal(await both(governor, EXEC), undefined);
  assert.equal((await both(governor, EXEC)).block, true);
  assert.equal(asked.length, 2);
});

test("what passed in one run does not pass in another", async () => {
  const { governor } = governed([decision("allow"), decision("deny")]);
  await governor.decide(EXEC, CTX);
  const elsewhere = { ...EXEC, runId: "run-2" };
  assert.equal((await governor.check(elsewhere, { ...CTX, runId: "run-2" })).block, true);
});

test("arguments that another plugin changed after the decision are decided again", async () => {
  const { governor, asked } = governed([decision("allow"), decision("deny")]);
  await governor.decide(EXEC, CTX);
  const changed = { ...EXEC, params: { command: "rm -rf /" } };
  assert.equal((await governor.check(changed, CTX)).block, true);
  assert.equal(asked[1].body.action.properties.input.command, "rm -rf /");
});

test("a call that the first tier never saw is decided by the second", async () => {
  const { governor, asked } = governed([decision("deny")]);
  assert.equal((await governor.check(EXEC, CTX)).block, true);
  assert.equal(asked.length, 1);
});

const OUTER = { toolName: "tool_call", params: { id: "openclaw:core:exec", args: { command: "date" } }, runId: "run-1", toolCallId: "call_2" };
const INNER = { ...EXEC, toolCallId: "tool_search_code:call_2:exec:1" };

test("a Tool Search call is asked about as the real tool, and the tool itself once only", async () => {
  const { governor, asked } = governed([decision("allow"), decision("deny")]);
  assert.equal(await both(governor, OUTER), undefined);
  assert.equal(await both(governor, INNER), undefined);
  assert.deepEqual(asked.map((one) => one.body.action.name), ["exec"]);
  assert.equal((await both(governor, INNER)).block, true, "and not a second time");
});

test("a tool that differs from what Tool Search was asked for is decided by itself", async () => {
  const { governor, asked } = governed([decision("allow"), decision("deny")]);
  await both(governor, OUTER);
  assert.equal((await both(governor, { ...INNER, params: { command: "id" } })).block, true);
  assert.equal(asked.length, 2);
});

test("rewritten arguments go into a Tool Search call, and the tool with them is not asked again", async () => {
  const answer = decision("allow_with_redaction", { input: { command: "echo <EMAIL_1>" } });
  const { governor, asked } = governed([answer]);
  const verdict = await both(governor, OUTER);
  assert.deepEqual(verdict.params, { id: "openclaw:core:exec", args: { command: "echo <EMAIL_1>" } });
  assert.equal(await both(governor, { ...INNER, params: { command: "echo <EMAIL_1>" } }), undefined);
  assert.equal(asked.length, 1);
});

for (const [name, answer] of Object.entries({
  "an error of the network": new Error("refused"),
  "a status that is no answer": { status: 503 },
  "an answer that is no decision": {},
  "a yes that is not true": { decision: "true", context: { outcome: "allow" } },
  "a yes without an outcome": { decision: true, context: {} },
  "a yes that says deny": { decision: true, context: { outcome: "deny" } },
  "a redaction without arguments": decision("allow_with_redaction"),
  "a review without an approval": decision("require_review"),
  "a refusal of this gateway": { status: 403 },
})) {
  test(`${name} blocks`, async () => {
    const { governor } = governed([answer]);
    const verdict = await both(governor, EXEC);
    assert.equal(verdict.block, true);
    assert.match(verdict.blockReason, /^checkrein: /);
  });
}

test("a call that names the gateway's own folder is blocked, whatever policy says, and told about", async () => {
  const { governor, asked } = governed([decision("allow"), {}]);
  const event = { ...EXEC, params: { command: "cat /srv/gateway/openclaw.json" } };
  assert.equal((await both(governor, event)).block, true);
  await governor.report({ ...event, result: { details: { status: "blocked" } } }, CTX);
  assert.deepEqual(asked.map((one) => one.body.status), [undefined, "blocked"]);
});

test("a review is held until people answer, then asked again", async () => {
  const review = decision("require_review", { access_request: { id: "apr_1" } });
  const answers = [review, { state: "pending" }, { state: "approved" }, decision("allow")];
  const { governor, asked } = governed(answers);
  assert.equal(await both(governor, EXEC), undefined);
  assert.equal(asked.filter((one) => one.url.endsWith("/access/v1/evaluation")).length, 2);
});

test("a review that nobody answers within the hook's time blocks", async () => {
  const review = decision("require_review", { access_request: { id: "apr_1" } });
  const { governor } = governed([review, { state: "pending" }], { reviewMs: 1 });
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.match((await both(governor, EXEC)).blockReason, /nobody decided approval apr_1/);
});

test("names in policies are the operator's, and no property of every object", async () => {
  const { governor, asked } = governed([decision("deny")], { names: { docs__find: "find_document" } });
  for (const toolName of ["docs__find", "read", "constructor"]) await governor.decide({ ...EXEC, toolName }, CTX);
  assert.deepEqual(asked.map((one) => one.body.action.name), ["find_document", "read_file", "constructor"]);
});

test("without a turn the agent speaks for itself", async () => {
  const { governor, asked } = governed([decision("deny")]);
  await governor.decide(EXEC, { ...CTX, sessionKey: "agent:main:subagent:turn_short" });
  assert.deepEqual(asked[0].body.subject, { type: "agent", id: "main" });
});
