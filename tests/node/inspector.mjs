// The MCP Inspector's web page in a headless Chromium: node inspector.mjs PAGE-URL SCREENSHOTS-DIRECTORY.
// Does what a person does: connect, list the tools, call a slow one and watch its progress, call a quick one with an
// argument. Prints what the page showed as one JSON document.
import { onPage } from "./browser.mjs";

const [url, directory] = process.argv.slice(2);
const seen = {};
await onPage(directory, async (page, shot) => {
  await page.goto(url);
  await page.getByRole("switch", { name: /Connect or disconnect/ }).click({ force: true });
  await page.getByText("Connected").first().waitFor();
  await page.getByText("Tools", { exact: true }).click();
  await page.getByRole("button", { name: "test_greet", exact: true }).waitFor();
  const names = await page.getByRole("button").allTextContents();
  seen.tools = names.filter((name) => /^(test|test2|apikey)_/.test(name));
  await shot("tools");

  await page.getByRole("button", { name: "test_slow", exact: true }).click();
  await page.getByRole("textbox", { name: "Seconds" }).fill("3");
  await page.getByRole("button", { name: "Execute Tool" }).click();
  await page.getByText("1 of 3 s").first().waitFor();
  seen.progress = true;
  await shot("progress");
  await page.getByText("done after 3 s").first().waitFor();
  seen.slow = true;

  await page.getByRole("button", { name: "test_greet", exact: true }).click();
  await page.getByRole("textbox", { name: "Name" }).fill("Inspector");
  await page.getByRole("button", { name: "Execute Tool" }).click();
  await page.getByText("Hi Inspector").first().waitFor();
  seen.greet = true;
});
console.log(JSON.stringify(seen));
