// A fetch that may be repeated: one key for each logical request, the same on each of its attempts.
// What is exported is described in idempotency.d.ts.

// HTTP itself calls them idempotent (RFC 9110, section 9.2.2).
export const IDEMPOTENT_METHODS = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);

/** Answers after which another attempt may fare better. */
const AGAIN = new Set([425, 429, 500, 502, 503, 504]);

const DEFAULTS = Object.freeze({
  attempts: 20,
  deadline: 60_000,
  timeout: 10_000,
  backoff: 100,
  backoffMax: 2_000,
  methods: Object.freeze(["POST", "PATCH"]),
  header: "Idempotency-Key",
  quoted: false,
});

export class UnrepeatableBody extends TypeError {
  name = "UnrepeatableBody";

  constructor() {
    super(
      "The body of this request can be read only once, so that it could not be sent again after a failure. " +
        "Pass a string, a Blob, an ArrayBuffer, FormData or URLSearchParams, or a Request that was not used.",
    );
  }
}

export class KeyOutlived extends Error {
  name = "KeyOutlived";
}

export class KeyNotKept extends Error {
  name = "KeyNotKept";
}

export function newKey() {
  // randomUUID is there only in secure contexts, and many an intranet has none.
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export function retryPolicy(options = {}) {
  const unknown = Object.keys(options).filter((name) => !(name in DEFAULTS));
  if (unknown.length) throw new TypeError(`There is no option ${unknown.join(", ")}.`);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const policy = { ...DEFAULTS, ...Object.fromEntries(given) };
  if (!Number.isInteger(policy.attempts) || policy.attempts < 1) {
    throw new RangeError(`attempts must be a whole number, 1 or more, not ${policy.attempts}.`);
  }
  for (const name of ["deadline", "timeout", "backoff", "backoffMax"]) {
    if (!Number.isFinite(policy[name]) || policy[name] <= 0) {
      throw new RangeError(`${name} must be a number of milliseconds, more than 0, not ${policy[name]}.`);
    }
  }
  if (!Array.isArray(policy.methods)) {
    throw new TypeError("methods must be an array of names, such as ['POST', 'PATCH'].");
  }
  policy.methods = Object.freeze(policy.methods.map((method) => method.toUpperCase()));
  return Object.freeze(policy);
}

export function keyHeader(key, policy) {
  return policy.quoted ? `"${key}"` : key;
}

export function asksAgain(status, { replayed = false, saysWhen = false } = {}) {
  // A replay says the same for as long as the server keeps it.
  if (replayed) return false;
  // A conflict is the server's last word, unless it says when to come back.
  return AGAIN.has(status) || (status === 409 && saysWhen);
}

export function retryAfter(value, date = null) {
  const text = (value ?? "").trim();
  if (/^[0-9]+$/.test(text)) return Number(text) * 1000;
  const then = instant(text);
  if (Number.isNaN(then)) return 0;
  // Measured by the server's own clock where it tells the time, so that a skewed client waits no less.
  const told = instant(date ?? "");
  return Math.max(0, then - (Number.isNaN(told) ? Date.now() : told));
}

/** An HTTP date in any of its three forms (RFC 9110, section 5.6.7); NaN for anything else. */
function instant(text) {
  // Date.parse alone takes "1.5" for a day in January.
  if (/^[A-Z][a-z]+, [0-9A-Za-z: -]+ GMT$/.test(text)) return Date.parse(text);
  // The form of C's asctime names no zone, and Date.parse would take it for local time.
  return /^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d \d{4}$/.test(text) ? Date.parse(`${text} GMT`) : NaN;
}

export function nextWait(policy, { number, elapsed, asked = 0 }) {
  if (number >= policy.attempts) return null;
  const backoff = Math.random() * Math.min(policy.backoff * 2 ** (number - 1), policy.backoffMax);
  const wait = Math.max(asked, backoff);
  // A wait that would end past the deadline is not begun.
  return elapsed + wait < policy.deadline ? wait : null;
}

export function settles(status, { replayed = false, redirected = false, inDoubt = false } = {}) {
  if (replayed || (status >= 200 && status < 300 && !redirected)) return true;
  // A refusal tells of its own attempt only: a session that ran out says nothing of an earlier attempt that was done.
  // So does a redirection, which may lead to where one signs in, and end in a 200.
  return !inDoubt && status < 500 && status !== 409 && !AGAIN.has(status);
}

export function digest(...parts) {
  // Not a cryptographic one, which browsers lack outside secure contexts: it tells an edited payload from an equal
  // one, and where it ever failed to, the server's own fingerprint would refuse the second payload with a 422.
  let high = 0x9e3779b9;
  let low = 0x85ebca6b;
  const take = (byte) => {
    high = Math.imul((high << 5) | (high >>> 27), 0x01000193) ^ byte;
    low = Math.imul(((low << 13) | (low >>> 19)) ^ byte, 0xc2b2ae35);
  };
  for (const part of parts) {
    const bytes = typeof part === "string" ? new TextEncoder().encode(part) : part;
    bytes.forEach(take);
    // What ends a part cannot stand in one, so that ("ab", "c") and ("a", "bc") differ.
    take(0x100);
  }
  return [high, low].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
}

export class PendingKeys {
  #database;
  #maxAge;

  constructor({ database = "flask-idempotency", maxAge = 82_800_000 } = {}) {
    this.#database = database;
    this.#maxAge = maxAge;
  }

  async pin(name, payload) {
    if (typeof name !== "string" || !name) throw new TypeError("A key is pinned to a name, a non-empty string.");
    return this.#transact("readwrite", async (pending) => {
      const kept = await result(pending.get([name, payload]));
      if (kept && Date.now() - kept.since > this.#maxAge) {
        throw new KeyOutlived(
          `The key of "${name}" has been pending for so long that it may no longer stop a second run. ` +
            "Look up whether the operation was done before you forget() its key.",
        );
      }
      // One that is there was taken up before: by this page before it was reloaded, or by another tab.
      const fresh = { name, payload, key: newKey(), since: Date.now(), inDoubt: false };
      const pinned = kept ? { ...kept, inDoubt: true } : fresh;
      pending.put(pinned);
      return pinned;
    });
  }

  async answered({ name, payload, key }, status, { replayed, redirected, inDoubt } = {}) {
    await this.#transact("readwrite", async (pending) => {
      const kept = await result(pending.get([name, payload]));
      if (kept?.key !== key) return;
      const settled = settles(status, { replayed, redirected, inDoubt: inDoubt || kept.inDoubt });
      if (settled) pending.delete([name, payload]);
    });
  }

  async unfinished() {
    const kept = await this.#transact("readonly", (pending) => result(pending.getAll()));
    return kept.sort((one, other) => one.since - other.since);
  }

  async forget(name) {
    await this.#transact("readwrite", async (pending) => {
      pending.delete(IDBKeyRange.bound([name], [name, []]));
    });
  }

  /** Runs `work` on the keys: one atomic decision among all tabs. What it wrote is on disk at the end. */
  async #transact(mode, work) {
    // Opened for each use: cheap beside a request over a network, and no tab is in the way of another's new version.
    const database = await open(this.#database);
    try {
      const transaction = database.transaction(KEYS, mode, { durability: "strict" });
      const committed = new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(notKept(transaction.error));
      });
      const [done] = await Promise.all([work(transaction.objectStore(KEYS)), committed]);
      return done;
    } finally {
      database.close();
    }
  }
}

const KEYS = "pending";

// Not localStorage: each process of a browser has a copy of it, which lags behind the others', under Web Locks too.
async function open(name) {
  let opening;
  try {
    // Where a page may not store anything, even to ask throws.
    opening = indexedDB.open(name, 1);
  } catch (cause) {
    throw notKept(cause);
  }
  opening.onupgradeneeded = () => opening.result.createObjectStore(KEYS, { keyPath: ["name", "payload"] });
  return result(opening);
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(notKept(request.error));
  });
}

function notKept(cause) {
  return new KeyNotKept("The browser does not let this page keep the key of a pending operation.", { cause });
}

export function createFetch(options = {}) {
  const { fetch = globalThis.fetch.bind(globalThis), pending = new PendingKeys(), onAttempt, ...bounds } = options;
  const policy = retryPolicy(bounds);

  return async function idempotentFetch(input, { pin, ...init } = {}) {
    const method = (init.method ?? input.method ?? "GET").toUpperCase();
    const given = new Headers(init.headers ?? input.headers).get(policy.header);
    if (pin !== undefined && given !== null) {
      throw new TypeError("A request has its own key or a pinned one, not both.");
    }
    const keyed = given !== null || pin !== undefined || policy.methods.includes(method);
    const repeatable = isRepeatable(input, init);
    if (keyed && !repeatable) throw new UnrepeatableBody();
    if (!repeatable || !(keyed || IDEMPOTENT_METHODS.has(method))) return fetch(input, init);

    // It takes the body as it is now: what the caller changes later is not sent.
    const request = new Request(input, init);
    const { signal } = request;
    signal.throwIfAborted();
    if (keyed && request.mode === "no-cors") {
      throw new TypeError('The key cannot be sent: with mode "no-cors", browsers drop the header.');
    }
    let pinned = null;
    let key = given;
    if (keyed && given === null) {
      if (pin !== undefined) pinned = await pending.pin(pin, await payloadDigest(request));
      key = keyHeader(pinned?.key ?? newKey(), policy);
      request.headers.set(policy.header, key);
    }

    const began = performance.now();
    for (let number = 1; ; number++) {
      signal.throwIfAborted();
      const left = policy.deadline - (performance.now() - began);
      const { response, error } = await attempt(fetch, request, Math.min(policy.timeout, left), keyed);
      if (response === undefined && signal.aborted) throw signal.reason;
      const replayed = response?.headers.get("Idempotent-Replayed") === "true";
      const saysWhen = response?.headers.has("Retry-After");
      const again = response === undefined || asksAgain(response.status, { replayed, saysWhen });
      const asked = retryAfter(response?.headers.get("Retry-After"), response?.headers.get("Date"));
      const elapsed = performance.now() - began;
      const wait = again ? nextWait(policy, { number, elapsed, asked }) : null;
      // In a microtask: an observer that throws is reported, and breaks no payment.
      if (onAttempt) queueMicrotask(() => onAttempt({ key, number, status: response?.status, replayed, error, wait }));
      if (wait !== null) {
        await sleep(wait, signal);
        continue;
      }
      if (response === undefined) throw error;
      if (pinned) {
        // A storage that fails now must not take the answer with it: a key that is left behind does no harm.
        const { status, redirected } = response;
        await pending.answered(pinned, status, { replayed, redirected, inDoubt: number > 1 }).catch(() => {});
      }
      return response;
    }
  };
}

export const idempotentFetch = (input, init) => (shared ??= createFetch())(input, init);
let shared;

/** One attempt, under a key up to the last byte of its answer, so that one cut in mid-body has failed. */
async function attempt(fetch, request, timeout, keyed) {
  const clock = new AbortController();
  const late = () => clock.abort(new DOMException("The server did not answer in time.", "TimeoutError"));
  const timer = setTimeout(late, timeout);
  try {
    const signal = AbortSignal.any([request.signal, clock.signal]);
    const response = await fetch(new Request(request.clone(), { signal }));
    // A copy is read, so that the caller gets the response itself, with its url, its type and a body not yet used.
    if (keyed) await response.clone().arrayBuffer();
    return { response };
  } catch (error) {
    return { error };
  } finally {
    clearTimeout(timer);
  }
}

function isRepeatable(input, init) {
  if (init.body !== undefined && init.body !== null) return !isStream(init.body);
  return !(input instanceof Request && input.bodyUsed);
}

function isStream(body) {
  return body instanceof ReadableStream || typeof body[Symbol.asyncIterator] === "function";
}

/** What the request asks for. Multipart counts by its parts, since it has another boundary after a reload. */
async function payloadDigest(request) {
  const copy = request.clone();
  const parts = [request.method, request.url];
  if (request.headers.get("Content-Type")?.startsWith("multipart/form-data")) {
    for (const [name, value] of await copy.formData()) {
      parts.push(name);
      if (typeof value === "string") parts.push("text", value);
      else parts.push("file", value.name, value.type, new Uint8Array(await value.arrayBuffer()));
    }
  } else {
    parts.push(new Uint8Array(await copy.arrayBuffer()));
  }
  return digest(...parts);
}

function sleep(wait, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, wait);
    signal.addEventListener("abort", abort, { once: true });
  });
}
