// The TypeScript SDK's own client through the gateway: node client.mjs URL. Prints one JSON document.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ToolListChangedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";

const [url] = process.argv.slice(2);
const client = new Client({ name: "ts-client", version: "1.0.0" }, { capabilities: {} });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
let changed = 0;
client.setNotificationHandler(ToolListChangedNotificationSchema, () => void changed++);
const { tools } = await client.listTools();
const progress = [];
const slow = await client.callTool({ name: "test_slow", arguments: { seconds: 2 } }, undefined, {
  onprogress: (update) => progress.push(update.progress),
});
const greet = await client.callTool({ name: "test_greet", arguments: { name: "TypeScript" } });
let unknown = null;
try {
  await client.callTool({ name: "nope", arguments: {} });
} catch (error) {
  unknown = { code: error.code, message: error.message };
}
await client.ping();
await transport.terminateSession();
await client.close();
console.log(
  JSON.stringify({ server: client.getServerVersion(), tools: tools.map((tool) => tool.name), progress, greet, slow, unknown }),
);
