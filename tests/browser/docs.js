// What a developer sees and does on /docs; the promise is kept with a report.
(async () => {
  const until = (find) =>
    new Promise((resolve) => {
      const look = () => {
        const found = find();
        if (found) {
          observer.disconnect();
          resolve(found);
        }
      };
      const observer = new MutationObserver(look);
      observer.observe(document, {
        attributes: true, characterData: true, childList: true, subtree: true,
      });
      look();
    });
  const text = (node) => node.innerText.replace(/\s+/g, " ").trim();
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  // An example, or an answer, as the page shows it.
  const json = (node) => {
    const shown = node?.querySelector(".highlight-code code");
    return shown ? JSON.parse(shown.innerText) : null;
  };
  const type = (field, value) => {
    const { set } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value");
    set.call(field, value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    // Else it waits for what else is typed.
    field.dispatchEvent(new FocusEvent("focusout", { bubbles: true }));
  };

  await until(() => document.querySelector(".opblock"));
  const operations = {};
  for (const block of all(document, ".opblock")) {
    const name = `${text(block.querySelector(".opblock-summary-method"))} ` +
      block.querySelector(".opblock-summary-path").dataset.path;
    block.querySelector(".opblock-summary-control").click();
    await until(() => block.querySelector(".responses-table"));
    operations[name] = {
      summary: text(block.querySelector(".opblock-summary-description")),
      parameters: all(block, ".parameters tr[data-param-name]").map(text),
      body: json(block.querySelector(".opblock-section-request-body")),
      responses: Object.fromEntries(
        all(block, ".responses-table tr.response").map((row) => [row.dataset.code, json(row)])),
    };
  }
  const execute = async (name, fill) => {
    const [method, path] = name.split(" ");
    const block = all(document, `.opblock-${method.toLowerCase()}`)
      .find((one) => one.querySelector(".opblock-summary-path").dataset.path === path);
    block.querySelector(".try-out__btn").click();
    await fill(block);
    (await until(() => block.querySelector(".execute"))).click();
    const row = await until(() => block.querySelector(".live-responses-table tr.response"));
    await until(() => row.querySelector(".highlight-code code"));
    return {
      status: text(row.querySelector(".response-col_status")),
      body: json(row),
    };
  };
  const read = await execute("GET /customers/{number}", async (block) =>
    type(await until(() => block.querySelector(".parameters input:not([disabled])")), "7"));
  const created = await execute("POST /customers", async (block) =>
    type(
      await until(() => block.querySelector("textarea.body-param__text")),
      JSON.stringify({ name: "May", email: "may@example.com" }),
    ));
  return {
    title: document.title,
    tags: all(document, ".opblock-tag").map(text),
    operations,
    schemas: all(document, ".models .json-schema-2020-12__title").map(text),
    errors: all(document, ".errors-wrapper").map(text),
    read,
    created,
  };
})();
