// Somebody logs in with the MCP Inspector: node inspector-login.mjs PAGE-URL SCREENSHOTS-DIRECTORY TOOL.
// Connects, logs in at the authorization server's own pages, comes back, lists the tools and calls one. Prints what
// the page showed as one JSON document.
import { onPage } from "./browser.mjs";

const [url, directory, tool] = process.argv.slice(2);
const seen = {};
await onPage(directory, async (page, shot) => {
  await page.goto(url);
  await page.getByRole("switch", { name: /Connect or disconnect/ }).click({ force: true });
  await page.locator('input[name="login"]').waitFor();
  await shot("login");
  await page.locator('input[name="login"]').fill("alice");
  await page.locator('input[name="password"]').fill("x");
  await page.locator('button[type="submit"]').click();
  await page.locator('input[name="prompt"][value="consent"]').waitFor({ state: "attached" });
  await page.locator('button[type="submit"]').click();
  await page.getByText("Connected").first().waitFor();
  await shot("connected");
  await page.getByText("Tools", { exact: true }).click();
  await page.getByRole("button", { name: tool, exact: true }).click();
  const names = await page.getByRole("button").allTextContents();
  seen.tools = names.filter((name) => /^[ab]_/.test(name));
  await page.getByRole("button", { name: "Execute Tool" }).click();
  await page.getByText("Results", { exact: true }).waitFor();
  await page.getByText('"arguments"').first().waitFor();
  seen.called = true;
});
console.log(JSON.stringify(seen));
