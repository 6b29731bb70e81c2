// The console's own script: the reader's zone, live progress, uploads, forms that are sent once.
(() => {
  "use strict";
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  document.documentElement.classList.add("scripted");

  // Times are written by the server in the zone of this cookie.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const known = document.cookie.split("; ").find((part) => part.startsWith("lethe-zone="));
  const wanted = "lethe-zone=" + encodeURIComponent(zone).replaceAll("%2F", "/");
  if (known !== wanted) document.cookie = wanted + "; Path=/; Max-Age=31536000; SameSite=Lax";

  // A form is sent once, however often its button is pressed.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.ask && !window.confirm(form.dataset.ask)) { event.preventDefault(); return; }
    setTimeout(() => $$("button", form).forEach((button) => { button.disabled = true; }));
  });
  window.addEventListener("pageshow", () => $$("button[disabled]").forEach((button) => { button.disabled = false; }));
  document.addEventListener("change", (event) => { if (event.target.dataset.go !== undefined) event.target.form.requestSubmit(); });

  // A part of the page that does not come says so.
  for (const kind of ["htmx:responseError", "htmx:sendError"]) {
    document.addEventListener(kind, (event) => { event.detail.target.textContent = "This part could not be loaded. Load the page again."; });
  }

  // Whether the reader is in the middle of something that reading the page again would wipe.
  const changed = (field) => {
    if (field.type === "hidden" || field.type === "submit" || field.type === "button") return false;
    if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
    if (field.type === "file") return field.files.length > 0;
    if (field.options) return field.selectedIndex !== Math.max(0, [...field.options].findIndex((each) => each.defaultSelected));
    return field.value !== field.defaultValue;
  };
  const busy = () => document.querySelector("main details[open]") !== null
    || document.activeElement.matches("main :is(input, select, textarea)")
    || $$("main :is(input, select, textarea)").some(changed);

  // Progress of a job, by the service's event stream. When the job ends, the page is read once more, unless somebody is
  // writing in it. Two are followed at a time: a browser has few connections.
  const ENDED = ["succeeded", "rejected", "failed", "cancelled", "dead"], FOLLOWED = 2;
  const boxes = $$("[data-events]");
  const over = (box) => {
    if (!busy()) { location.reload(); return; }
    const again = document.createElement("a");
    again.href = "";
    again.textContent = "Load the page again.";
    again.addEventListener("click", (event) => { event.preventDefault(); location.reload(); });
    box.querySelector("[data-over]").replaceChildren("It has ended. ", again);
    if (boxes.length) follow(boxes.shift());
  };
  const follow = (box) => {
    const source = new EventSource(box.dataset.events);
    const bar = box.querySelector("progress"), stage = box.querySelector("[data-stage]"), share = box.querySelector("[data-share]");
    const told = (event) => {
      const found = JSON.parse(event.data);
      if (typeof found.fraction === "number") {
        bar.value = found.fraction;
        share.textContent = Math.round(100 * found.fraction) + "\u00a0%";
      }
      if (found.stage) stage.textContent = found.stage;
      if (ENDED.includes(found.state)) { source.close(); setTimeout(() => over(box), 300); }
    };
    for (const kind of ["state", "progress"]) source.addEventListener(kind, told);
    window.addEventListener("pagehide", () => source.close());
  };
  boxes.splice(0, FOLLOWED).forEach(follow);

  // What is folded is printed, too; what is a form is not (the style sheet).
  window.addEventListener("beforeprint", () => {
    for (const each of $$("main details:not([open])")) if (!each.querySelector("form")) { each.dataset.folded = ""; each.open = true; }
  });
  window.addEventListener("afterprint", () => $$("[data-folded]").forEach((each) => { each.open = false; delete each.dataset.folded; }));

  // On to a page; one that differs by its fragment alone is read again.
  const go = (address) => {
    const bare = (url) => new URL(url, location).href.split("#")[0], stays = bare(address) === bare(location);
    location.assign(address);
    if (stays) location.reload();
  };

  // A file that is sent to the service as it is, with progress.
  for (const form of $$("form[data-upload]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const file = form.querySelector("input[type=file]").files[0], said = form.querySelector("[data-said]");
      if (!file) { said.textContent = "Choose a file first."; return; }
      const forms = JSON.parse(form.dataset.forms || "null"), ending = file.name.split(".").pop().toLowerCase();
      if (forms && !forms[ending]) { said.textContent = "The file's name ends in none of: " + Object.keys(forms).join(", ") + "."; return; }
      const bar = form.querySelector("progress"), call = new XMLHttpRequest();
      bar.hidden = false;
      call.upload.addEventListener("progress", (at) => {
        if (at.lengthComputable) { bar.value = at.loaded / at.total; said.textContent = Math.round(100 * at.loaded / at.total) + "\u00a0% sent"; }
      });
      call.addEventListener("load", () => {
        if (call.status < 300 && form.dataset.then) { go(form.dataset.then); return; }
        if ((call.getResponseHeader("Content-Type") || "").startsWith("text/html")) {
          // A part of a page that this service has made.
          bar.hidden = true;
          said.innerHTML = call.responseText;
          return;
        }
        if (call.status < 300) { told(call.responseText, said); return; }
        let problem = {};
        try { problem = JSON.parse(call.responseText); } catch { /* the status says it */ }
        said.textContent = problem.detail || "Refused with status " + call.status + ".";
      });
      call.addEventListener("error", () => { said.textContent = "The connection broke off. Send it again."; });
      const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => typeof value === "string"));
      if (!forms) { query.set("name", file.name); query.set("once", form.dataset.once); }
      call.open(form.dataset.method, form.dataset.upload + (query.size ? "?" + query : ""));
      call.setRequestHeader("Content-Type", forms ? forms[ending] : "application/octet-stream");
      call.setRequestHeader("HX-Request", "true");
      call.setRequestHeader("X-CSRF-Token", form.dataset.csrf);
      if (form.dataset.once) call.setRequestHeader("Idempotency-Key", form.dataset.once);
      call.send(file);
    });
  }

  // The digest of a file that is not sent yet. Browsers compute one over https, or on the same machine.
  for (const input of $$("input[data-digest]")) {
    const said = input.parentElement.querySelector("[data-said]");
    if (!window.crypto.subtle) { input.parentElement.hidden = true; continue; }
    input.addEventListener("change", async () => {
      const file = input.files[0];
      if (!file) return;
      said.textContent = "Reading…";
      try {
        const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
        document.getElementById(input.dataset.digest).value = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        said.textContent = "";
      } catch { said.textContent = "The browser cannot read it. Enter the digest."; }
    });
  }

  // What became of each line of an import.
  const told = (text, said) => {
    const lines = text.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
    const bad = lines.filter((line) => line.status >= 300);
    said.textContent = (lines.length - bad.length) + " accepted, " + bad.length + " refused."
      + bad.slice(0, 20).map((line) => "\nLine " + (line.line + 1) + ": " + line.problem.detail).join("");
  };
})();
