/** The review's JSON API: what went wrong is told apart from what cannot be reached. */

const ROOT = "/api/review/";
const SECONDS = 15;

export class ApiError extends Error {
  /** @param {number} status 0 where no answer came. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** The same request may succeed later: no answer, a busy server, a sign-in that ran out. */
  get passing() {
    return this.status === 0 || this.status >= 500 || [401, 403, 408, 409, 425, 429].includes(this.status);
  }
}

const meta = () => document.querySelector('meta[name="csrf"]');

async function request(path, options) {
  let answer;
  try {
    answer = await fetch(ROOT + path, { credentials: "same-origin", signal: AbortSignal.timeout(SECONDS * 1000), ...options });
  } catch (error) {
    throw new ApiError(0, error.name === "TimeoutError" ? "the server does not answer" : "the server cannot be reached");
  }
  let body = null;
  try {
    body = await answer.json();
  } catch { /* said below by status */ }
  if (!answer.ok || body === null) {
    throw new ApiError(answer.ok ? 502 : answer.status, body?.error ?? `the server answered ${answer.status}`);
  }
  return body;
}

/** GET; empty parameters are left out. */
export function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(key, value);
  }
  const text = query.toString();
  return request(text ? `${path}?${text}` : path, {});
}

/** POST with the token against forged requests. A server that was restarted has another: it is fetched once. */
export async function post(path, body = {}) {
  const send = () => request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Regraft-CSRF": meta()?.content ?? "" },
    body: JSON.stringify(body),
  });
  try {
    return await send();
  } catch (error) {
    if (error.status !== 403 || !(await renewed())) throw error;
    return send();
  }
}

async function renewed() {
  try {
    const page = await fetch(location.href, { credentials: "same-origin", signal: AbortSignal.timeout(SECONDS * 1000) });
    const fresh = new DOMParser().parseFromString(await page.text(), "text/html").querySelector('meta[name="csrf"]');
    if (!fresh || !meta()) return false;
    meta().content = fresh.content;
    return true;
  } catch {
    return false;
  }
}
