// A client on the TypeScript SDK, 1.x or 2.x (tests/clients/README.md): node restless.mjs 1|2 URL TOOL [auto].
const [line, url, tool, mode] = process.argv.slice(2);
const isOne = line === "1";
const root = isOne ? "@modelcontextprotocol/sdk/client/" : "@modelcontextprotocol/client";
const { Client } = await import(isOne ? `${root}index.js` : root);
const { StreamableHTTPClientTransport } = await import(isOne ? `${root}streamableHttp.js` : root);
const kind = isOne
  ? (await import("@modelcontextprotocol/sdk/types.js")).ToolListChangedNotificationSchema
  : "notifications/tools/list_changed";

let ended = false;
process.stdin.on("end", () => (ended = true)).resume();
const negotiation = mode ? { versionNegotiation: { mode } } : {};
const client = new Client({ name: `ts${line}-client`, version: "1.0.0" }, { capabilities: {}, ...negotiation });
client.onerror = () => {};
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
client.setNotificationHandler(kind, () => console.log("changed"));
await client.listTools();
let calls = 0;
while (!ended) {
  try {
    const result = await client.callTool({ name: tool, arguments: {} });
    if (result.isError) console.log("error", JSON.stringify(result.content));
  } catch (error) {
    console.log("error", error.message);
  }
  if (++calls === 1) console.log("ready", client.getNegotiatedProtocolVersion?.() ?? client.transport?.protocolVersion ?? "");
  await new Promise((resolve) => setTimeout(resolve, 50));
}
await client.close();
console.log("calls", calls);
