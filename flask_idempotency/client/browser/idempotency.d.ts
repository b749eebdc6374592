/**
 * A `fetch` that may be repeated: one idempotency key for each logical request, the same on each of its attempts.
 *
 *     <script type="module">
 *       import { idempotentFetch } from "/static/idempotency.js";
 *       const response = await idempotentFetch("/payments", {
 *         method: "POST",
 *         headers: { "Content-Type": "application/json" },
 *         body: JSON.stringify(payment),
 *         pin: "order-17",          // the key survives a reload of the page
 *       });
 *     </script>
 *
 * No dependencies, no build step. Durations are milliseconds. To another origin, browsers send the key, and show what
 * the server says of it, only where that server answers with these lines:
 *
 *     Access-Control-Allow-Headers: Idempotency-Key
 *     Access-Control-Expose-Headers: Retry-After, Idempotent-Replayed
 */

/** The bounds within which a request is repeated. A misspelt option throws. */
export interface RetryOptions {
  /** How often a request is sent at most, the first time included. 20 unless given. */
  attempts?: number;
  /**
   * How long all attempts and the waits between them may take. A server's lease is 30 s, and 60 s outlast a worker that
   * died.
   */
  deadline?: number;
  /** How long one attempt may take, up to the last byte of its answer: 10 s unless given. Large uploads need more. */
  timeout?: number;
  /**
   * Before attempt n + 1 comes a random wait of up to `backoff * 2 ** (n - 1)`, and at most `backoffMax`: full jitter.
   * 100 unless given.
   */
  backoff?: number;
  /** 2,000 unless given. */
  backoffMax?: number;
  /**
   * The methods whose requests get a key: POST and PATCH unless given. Others are repeated where HTTP calls them
   * idempotent.
   */
  methods?: readonly string[];
  /** `Idempotency-Key` unless given. */
  header?: string;
  /** Whether new keys are sent in the draft's quoted form, the only one that a `strict` server accepts. */
  quoted?: boolean;
}

export type RetryPolicy = Readonly<Required<RetryOptions>>;

/** What became of one attempt. */
export interface Attempt {
  /** As it stands in the header; null for a request that needs none. */
  readonly key: string | null;
  /** 1 for the first. */
  readonly number: number;
  /** Of the answer, where one came. */
  readonly status: number | undefined;
  /** Whether the answer is a repeat of an earlier one. */
  readonly replayed: boolean;
  /** Why no answer came. */
  readonly error: unknown;
  /** How long until the next attempt; null after the last. */
  readonly wait: number | null;
}

export interface FetchOptions extends RetryOptions {
  /** What sends the attempts: the browser's `fetch` unless given. */
  fetch?: typeof globalThis.fetch;
  /** Where pinned keys are kept: `new PendingKeys()` unless given. */
  pending?: PendingKeys;
  /**
   * Called after each attempt, for logs and timelines. What it throws is reported as an uncaught error and changes
   * nothing.
   */
  onAttempt?: (attempt: Attempt) => void;
}

export interface IdempotentInit extends RequestInit {
  /**
   * The business object that the request is about, such as `"order-17"`: its key is kept in the browser before the
   * request is sent and until it is settled, so that a reload in mid-payment, or another tab, repeats it and pays once.
   *
   * The key belongs to the object, the method, the URL and the payload together. An edited payment is therefore
   * another one, with another key: a page that finds its payment among `unfinished()` should repeat it as it was
   * before it lets anybody edit it, or both may be paid.
   */
  pin?: string;
}

export type IdempotentFetch = (input: RequestInfo | URL, init?: IdempotentInit) => Promise<Response>;

/**
 * A `fetch` that gives each POST and PATCH one key and sends it again under that key until it has its answer: after a
 * network error, a time-out, a cut answer, a 409 that carries `Retry-After`, 425, 429, 500, 502, 503 and 504.
 * `Retry-After` is the least wait. Any other answer is final, and so is a replay.
 *
 * A key that the caller put into the header wins. Requests with an idempotent method are repeated too, without a key.
 * An answer under a key is read to its end before it is handed on. After the last attempt the caller gets its answer,
 * or its error: a `TypeError` of the network, or a `DOMException` called `TimeoutError`. An `AbortSignal` ends attempts
 * and waits at once, with its reason; the operation may have been done nevertheless.
 *
 * Rejects, before anything is sent, with `UnrepeatableBody` where the body can be read only once, with `KeyOutlived` or
 * `KeyNotKept` where a pinned key is of no use, and with a `TypeError` for options that make no sense.
 */
export function createFetch(options?: FetchOptions): IdempotentFetch;

/** `createFetch()`, for those who need no options. */
export const idempotentFetch: IdempotentFetch;

/** The body is a stream, or that of a `Request` that was used. Thrown before anything is sent. */
export class UnrepeatableBody extends TypeError {}

/**
 * The pending key is older than the server's records: it may no longer stop a second run. Only somebody who looks up
 * whether the operation was done can decide: if not, `forget(name)` lets the next attempt have a new key.
 */
export class KeyOutlived extends Error {}

/** The browser keeps nothing for this page, or nothing more: a pinned key would not outlive a reload. */
export class KeyNotKept extends Error {}

/** A key that is kept until its operation is settled. What is kept of the payload is a digest. */
export interface PinnedKey {
  readonly name: string;
  readonly payload: string;
  readonly key: string;
  /** When it was made, in milliseconds since 1970. */
  readonly since: number;
  /** Whether it was there before: an attempt that nobody heard the end of may have done the operation. */
  readonly inDoubt: boolean;
}

/**
 * The keys of operations that are not settled yet, in an IndexedDB that all tabs share. Each method may reject with
 * `KeyNotKept`.
 */
export class PendingKeys {
  /**
   * `database`: its name. `maxAge`: how old a key may grow. It must stay below the server's retention, and is an hour
   * below its default.
   */
  constructor(options?: { database?: string; maxAge?: number });

  /**
   * The key of `name` with this payload (its `digest`), on disk from now on. Two tabs that pin at once get one key.
   * Rejects with `KeyOutlived` rather than hand out a key that no longer protects.
   */
  pin(name: string, payload: string): Promise<PinnedKey>;

  /**
   * Take note of the final answer: a key is forgotten once the answer `settles` the operation. `inDoubt`: whether an
   * earlier attempt ended without an answer, or with one that asks to try again.
   */
  answered(
    pinned: PinnedKey,
    status: number,
    about?: { replayed?: boolean; redirected?: boolean; inDoubt?: boolean },
  ): Promise<void>;

  /** The operations that are not settled, oldest first: what a page should take up after it was loaded. */
  unfinished(): Promise<PinnedKey[]>;

  /** Drop the keys of `name`: the next attempt is a new operation, and may do it a second time. */
  forget(name: string): Promise<void>;
}

/** The methods whose requests may be repeated without a key. */
export const IDEMPOTENT_METHODS: ReadonlySet<string>;

/** A key for one new operation: a random UUID, outside secure contexts too. */
export function newKey(): string;

/** The key as it stands in the header. */
export function keyHeader(key: string, policy: RetryPolicy): string;

/** The options with their defaults. Throws where a bound makes no sense. */
export function retryPolicy(options?: RetryOptions): RetryPolicy;

/** Whether an answer asks to be asked again. A 409 does where it `saysWhen`, by a `Retry-After`. */
export function asksAgain(status: number, about?: { replayed?: boolean; saysWhen?: boolean }): boolean;

/**
 * Milliseconds to wait as `Retry-After` says, in seconds or as a date, by the clock of the `Date` header; 0 where it
 * says nothing that makes sense.
 */
export function retryAfter(value: string | null | undefined, date?: string | null): number;

/**
 * Milliseconds until the next attempt; null where there is none. `number`: of the attempt that failed; `elapsed`: since
 * the first began.
 */
export function nextWait(
  policy: RetryPolicy,
  about: { number: number; elapsed: number; asked?: number },
): number | null;

/**
 * Whether an answer says what became of the operation. Success and a replay do. A refusal and a redirection do where no
 * earlier attempt is `inDoubt`: they tell of their own attempt only. A conflict never does, nor does a failure of the
 * server.
 */
export function settles(
  status: number,
  about?: { replayed?: boolean; redirected?: boolean; inDoubt?: boolean },
): boolean;

/** Tells one payload from another, across reloads. Not a cryptographic digest. */
export function digest(...parts: readonly (string | Uint8Array)[]): string;
