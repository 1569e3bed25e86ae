// A client that logs in by itself: it prints where to, reads what the callback got on its standard input, and lists and calls tools.
// Usage: node login.mjs 1|2 URL CALLBACK
import { createInterface } from 'node:readline';

const [generation, url, callback] = process.argv.slice(2);
const [{ Client }, { StreamableHTTPClientTransport }] = generation === '1'
  ? await Promise.all([import('@modelcontextprotocol/sdk/client/index.js'), import('@modelcontextprotocol/sdk/client/streamableHttp.js')])
  : await import('@modelcontextprotocol/client').then((all) => [all, all]);

class Login {
  get redirectUrl() { return callback; }
  get clientMetadata() { return { client_name: 'test', redirect_uris: [callback], grant_types: ['authorization_code'], response_types: ['code'], scope: 'mcp' }; }
  clientInformation() { return this.information; }
  saveClientInformation(information) { this.information = information; }
  tokens() { return this.kept; }
  saveTokens(tokens) { this.kept = tokens; }
  redirectToAuthorization(where) { console.log(`authorize ${where}`); }
  saveCodeVerifier(verifier) { this.verifier = verifier; }
  codeVerifier() { return this.verifier; }
  saveDiscoveryState(state) { this.discovery = state; }
  discoveryState() { return this.discovery; }
  validateResourceURL() { return undefined; } // the test's resource is not its URL
}

const login = new Login();
const transport = () => new StreamableHTTPClientTransport(new URL(url), { authProvider: login });
const first = transport();
try {
  await new Client({ name: 'test', version: '1' }).connect(first);
  throw new Error('nobody asked who it is');
} catch (error) {
  if (error.constructor.name !== 'UnauthorizedError') throw error;
}
const answer = await new Promise((resolve) => createInterface({ input: process.stdin }).once('line', resolve));
const { code, iss } = JSON.parse(answer);
await first.finishAuth(code, iss);
const client = new Client({ name: 'test', version: '1' });
await client.connect(transport());
const { tools } = await client.listTools();
const { isError } = await client.callTool({ name: 'a_one', arguments: {} });
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), isError: isError ?? false }).replaceAll(':', ': ').replaceAll(',', ', '));
await client.close();
process.exit(0);
