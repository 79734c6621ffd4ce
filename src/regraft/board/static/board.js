"use strict";
// What every page of the board does: come in with the token of the address, keep the proof of origin fresh, and say
// whether everything is saved. Other scripts use `window.regraft`.
(() => {
  const meta = document.querySelector('meta[name="csrf"]');
  const badge = document.getElementById("connection");
  const session = async () => {
    const answer = await fetch("/api/session", { headers: { Accept: "application/json" } }).catch(() => null);
    return answer && answer.ok ? answer.json() : { inside: false };
  };

  // The address that was printed ends in #token=…: a fragment is never sent to a server. Trade it for a cookie, and
  // take it out of the address and of the browser's history.
  const comeIn = async () => {
    const fragment = new URLSearchParams(location.hash.slice(1));
    const token = fragment.get("token");
    const login = document.getElementById("login");
    const next = login ? login.dataset.next : location.pathname + location.search;
    if (token !== null) {
      history.replaceState(null, "", location.pathname + location.search);
      if (!login) return;
      const answer = await fetch("/login", {
        method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify({ token, next }),
      }).catch(() => null);
      if (answer && answer.ok) return location.replace(next);
      const problem = document.getElementById("login-problem");
      problem.textContent = answer ? "That is not this board's token." : "The board cannot be reached.";
      problem.hidden = false;
    } else if (login && location.pathname !== "/login") {
      // A link from elsewhere arrives without the cookie (SameSite=Strict); asked from here it comes along.
      if ((await session()).inside) location.replace(next);
    }
  };

  const regraft = {
    /** The proof that a request comes from a page of this board. */
    csrf: () => meta.content,

    /** Fetch it again, after the board was started anew. Returns true where that went well. */
    async refresh() {
      const found = await session();
      if (found.inside) meta.content = found.csrf;
      return found.inside;
    },

    /** fetch() with the proof; a 403 is tried once more with a fresh one. Throws where the board cannot be reached. */
    async send(url, { method = "POST", json, ...options } = {}) {
      const once = () => fetch(url, {
        method, ...options, body: json === undefined ? options.body : JSON.stringify(json),
        headers: {
          Accept: "application/json", ...(json === undefined ? {} : { "Content-Type": "application/json" }),
          ...options.headers, "X-Regraft-CSRF": meta.content,
        },
      });
      const answer = await once();
      return answer.status === 403 && await regraft.refresh() ? once() : answer;
    },

    /** Show "saved", "waiting" (with how many) or "offline" in the bar. */
    connection(state, waiting = 0) {
      if (!badge) return;
      const words = { saved: "saved", waiting: `${waiting} waiting`, offline: waiting ? `offline · ${waiting} waiting` : "offline" };
      badge.dataset.state = state;
      if (badge.textContent !== words[state]) badge.textContent = words[state];
      badge.hidden = false;
    },
  };
  window.regraft = regraft;

  document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["X-Regraft-CSRF"] = meta.content; });
  document.addEventListener("htmx:sendError", () => regraft.connection("offline"));
  document.addEventListener("htmx:afterOnLoad", () => { if (badge && badge.dataset.state === "offline") regraft.connection("saved"); });
  document.addEventListener("htmx:responseError", async (event) => {
    const status = event.detail.xhr.status;
    if (status === 401) location.reload();
    else if (status === 403) await regraft.refresh();
  });
  addEventListener("offline", () => regraft.connection("offline"));
  addEventListener("hashchange", comeIn);
  comeIn();
})();
