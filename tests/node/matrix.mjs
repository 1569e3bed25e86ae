// A TypeScript SDK's client in a cell of the matrix: node matrix.mjs URL SDK MODE TOOL. Prints one JSON document.
// SDK is 1 or 2, MODE legacy, auto or pin (of 2), TOOL asks its user for a name.
const [url, sdk, mode, asking] = process.argv.slice(2);
const root = sdk === "1" ? "@modelcontextprotocol/sdk/client/" : "@modelcontextprotocol/client";
const { Client } = await import(sdk === "1" ? `${root}index.js` : root);
const { StreamableHTTPClientTransport } = await import(sdk === "1" ? `${root}streamableHttp.js` : root);
const elicit = sdk === "1" ? (await import("@modelcontextprotocol/sdk/types.js")).ElicitRequestSchema : "elicitation/create";

const negotiation = sdk === "1" ? {} : { versionNegotiation: { mode: mode === "pin" ? { pin: "2026-07-28" } : mode } };
const client = new Client({ name: "ts", version: "1" }, { capabilities: { elicitation: {} }, ...negotiation });
client.setRequestHandler(elicit, () => ({ action: "accept", content: { name: "Ann" } }));
await client.connect(new StreamableHTTPClientTransport(new URL(url)));

const steps = [];
const onprogress = (update) => steps.push(update.progress);
const call = (name, args = {}, options = {}) =>
  sdk === "1" ? client.callTool({ name, arguments: args }, undefined, options) : client.callTool({ name, arguments: args }, options);
const refused = async (promise) => {
  try {
    await promise;
    return "";
  } catch (error) {
    return String(error.message);
  }
};
const report = {
  tools: (await client.listTools()).tools.map((each) => each.name),
  echo: (await call("x_echo", { message: "é" })).content[0].text,
  fails: (await call("x_fails")).isError,
  unknown: await refused(call("x_nothing")),
  steps: (await call("x_steps", {}, { onprogress })).content[0].text,
  progress: steps,
  asked: asking ? (await call(asking)).content[0].text : "",
  prompt: (await client.getPrompt({ name: "x_greet", arguments: { name: "Ann" } })).messages.length,
  resource: (await client.readResource({ uri: "memo://of/Ann" })).contents[0].text,
  templates: (await client.listResourceTemplates()).resourceTemplates.map((each) => each.uriTemplate),
  completed: (
    await client.complete({ ref: { type: "ref/prompt", name: "x_greet" }, argument: { name: "name", value: "An" } })
  ).completion.values,
};
await client.close();
console.log(JSON.stringify(report));
process.exit(0);
