// A headless Chromium with one page, on which a test does what a person does: onPage(DIRECTORY, async (page, shot) => …).
// Screenshots go to the directory, one of the end in any case.
import chromium from "@sparticuz/chromium";
import { chromium as playwright } from "playwright-core";

export async function onPage(directory, act) {
  chromium.setGraphicsMode = false;
  const browser = await playwright.launch({
    executablePath: await chromium.executablePath(),
    args: [...chromium.args, "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    headless: true,
  });
  const page = await browser.newPage({ viewport: { width: 1500, height: 1000 } });
  page.setDefaultTimeout(20000);
  const shot = (name) => page.screenshot({ path: `${directory}/${name}.png` });
  try {
    return await act(page, shot);
  } finally {
    await shot("last");
    await browser.close();
  }
}
