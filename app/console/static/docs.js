// The page of the API: search, and calls with the key of the session or with another one.
(() => {
  "use strict";
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const root = new URL(document.currentScript.src).pathname.split("/console/assets/")[0];  // of a proxy
  const csrf = document.querySelector("meta[name=csrf]")?.content || "";

  const box = document.createElement("p");
  box.innerHTML = '<label for="search">Search</label> <input id="search" type="search" autocomplete="off"> <small role="status"></small>';
  document.querySelector("header").append(box);
  const said = box.querySelector("small"), sections = $$("main section"), items = $$("nav li");
  // What is looked at is fetched then; where the page is whole, everything is there.
  const open = async (section) => {
    if (!section?.matches("section[data-part]")) return;
    section.removeAttribute("data-part");
    const answer = await fetch(root + "/docs/parts/" + encodeURIComponent(section.id));
    if (!answer.ok) { section.setAttribute("data-part", ""); return; }
    const made = document.createElement("template");
    made.innerHTML = await answer.text();
    section.replaceChildren(...made.content.querySelector("section").childNodes);
    if (section.dataset.method) offer(section);
  };
  const target = () => document.getElementById(decodeURIComponent(location.hash.slice(1)));
  addEventListener("hashchange", () => open(target()).then(() => target()?.scrollIntoView()));
  document.querySelector("main").addEventListener("click", (event) => {
    if (event.target.closest("h3 a")) open(event.target.closest("section"));
  });

  const words = new Map(sections.map((section) => [section.id, section.textContent.toLowerCase()]));
  let known = !document.querySelector("section[data-part]");
  const learn = async () => {  // the names and texts that are not on the page yet
    if (known) return;
    known = true;
    const address = document.querySelector('header a[href$="/v1/openapi.json"]').href, found = await (await fetch(address)).json();
    const add = (id, what) => words.set(id, (words.get(id) || "") + " " + JSON.stringify(what).toLowerCase());
    for (const item of Object.values(found.paths)) for (const call of Object.values(item)) add(call.operationId, call);
    for (const [name, schema] of Object.entries(found.components.schemas)) add("schema-" + name, schema);
  };
  box.querySelector("input").addEventListener("input", async (event) => {
    await learn();
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (id) => wanted.every((word) => (words.get(id) || "").includes(word));
    let left = 0;
    for (const section of sections) { section.hidden = !fits(section.id); left += section.hidden ? 0 : 1; }
    for (const item of items) item.hidden = !fits(item.querySelector("a").getAttribute("href").slice(1));
    said.textContent = wanted.length ? left + " of " + sections.length : "";
  });

  const field = (name, label, value = "") => {
    const line = document.createElement("label");
    line.append(label + " ");
    const input = Object.assign(document.createElement("input"), { name, value });
    line.append(input);
    return line;
  };
  const offer = (section) => {
    const { method, path, media } = section.dataset;
    const tries = Object.assign(document.createElement("button"), { type: "button", textContent: "Try it" });
    tries.addEventListener("click", () => {
      tries.hidden = true;
      const form = document.createElement("form"), names = [...path.matchAll(/{(\w+)}/g)].map((found) => found[1]);
      for (const name of names) form.append(field("path:" + name, name));
      for (const name of (section.dataset.query || "").split(" ").filter(Boolean)) form.append(field("query:" + name, name));
      if (!csrf) form.append(field("key", "API key"));
      if (media === "application/json") {
        const area = Object.assign(document.createElement("textarea"), { name: "body", rows: 8, spellcheck: false, ariaLabel: "Body" });
        area.value = section.querySelector("pre[data-example]")?.textContent || "{}";
        form.append(area);
      }
      const send = Object.assign(document.createElement("button"), { textContent: method + " it" }), reply = Object.assign(document.createElement("pre"), { tabIndex: 0 });
      form.append(send);
      section.append(form, reply);
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        const given = new FormData(form), query = new URLSearchParams(), headers = { Accept: "application/json" };
        let target = path;
        for (const [name, value] of given) {
          if (name.startsWith("path:")) target = target.replace("{" + name.slice(5) + "}", encodeURIComponent(value));
          if (name.startsWith("query:") && value) query.set(name.slice(6), value);
        }
        if (given.get("key")) headers.Authorization = "Bearer " + given.get("key"); else headers["X-CSRF-Token"] = csrf;
        const body = given.has("body") ? given.get("body") : undefined;
        if (body !== undefined) headers["Content-Type"] = media;
        reply.textContent = "…";
        try {
          const answer = await fetch(root + target + (query.size ? "?" + query : ""), { method, headers, body });
          const text = await answer.text();
          let shown = text;
          try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* no JSON: as it is */ }
          reply.textContent = answer.status + " " + answer.statusText + "\n\n" + shown.slice(0, 100000);
        } catch (error) { reply.textContent = String(error); }
      });
    });
    section.append(tries);
  };
  for (const section of $$("section[data-method]:not([data-part])")) offer(section);
  open(target()).then(() => target()?.scrollIntoView());
})();
