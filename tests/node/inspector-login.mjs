// Somebody logs in with the MCP Inspector: node inspector-login.mjs PAGE-URL SCREENSHOTS-DIRECTORY TOOL.
// Connects, logs in at the authorization server's own pages, comes back, lists the tools and calls one. Prints what
// the page showed as one JSON document.
import chromium from "@sparticuz/chromium";
import { chromium as playwright } from "playwright-core";

const [url, directory, tool] = process.argv.slice(2);
chromium.setGraphicsMode = false;
const browser = await playwright.launch({
  executablePath: await chromium.executablePath(),
  args: [...chromium.args, "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  headless: true,
});
const page = await browser.newPage({ viewport: { width: 1500, height: 1000 } });
page.setDefaultTimeout(20000);
const shot = (name) => page.screenshot({ path: `${directory}/${name}.png` });
const seen = {};
try {
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
} finally {
  await shot("last");
  await browser.close();
}
console.log(JSON.stringify(seen));
