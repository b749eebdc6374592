// Two browsers that pay: one as a page of yours would, with `idempotency.js`; one that retries without keys.
import { createFetch, newKey } from "./idempotency.js";
import { announce, announceEnd, forgetPayment, show, showHistory } from "./timeline.js";

const PRICE = 20;
const PATIENCE = { attempts: 8, deadline: 30_000, timeout: 8_000, backoff: 300, backoffMax: 300 };

/** What befalls the first attempt of each side. */
const FAILURES = {
  none: {},
  "lost-request": { fault: "lost-request" },
  "lost-answer": { fault: "lost-answer" },
  "slow-server": { fault: "slow", timeout: 800 },
  "crashed-worker": { fault: "crash" },
  "double-click": { fault: "slow", clicks: 2 },
  reload: { fault: "slow", reload: true },
};

const SIDES = { keyed: payWithKey, unkeyed: payWithoutKey };
const LOOK_EVERY = 200;

const form = document.getElementById("pay");
const button = form.querySelector("button");

/** The payment that is under way or was the last; it outlives a reload of the page, as does the history. */
let run = JSON.parse(sessionStorage.getItem("run"));
const history = JSON.parse(sessionStorage.getItem("history")) ?? [];
let server = nothingYet();

// The two browsers

async function payWithKey(order) {
  let attempt;
  const pay = createFetch({
    ...PATIENCE,
    ...timeoutOf(order),
    fetch: (request) => send("keyed", (attempt = nextAttempt("keyed")), request),
    onAttempt: (outcome) => note("keyed", attempt, "heard", outcome),
  });
  const response = await pay(new URL("shop/api/transfers", import.meta.url), {
    ...payment("keyed"),
    pin: `order-${order.number}`, // the key outlives a reload, and a second click finds it
  });
  return response.status;
}

async function payWithoutKey(order) {
  const { timeout, attempts, backoff } = { ...PATIENCE, ...timeoutOf(order) };
  for (let number = 1; ; number++) {
    const attempt = nextAttempt("unkeyed");
    const wait = number < attempts ? Math.random() * backoff : null;
    try {
      const signal = AbortSignal.timeout(timeout);
      const url = new URL("shop/api/unprotected/transfers", import.meta.url);
      const { status } = await send("unkeyed", attempt, new Request(url, { ...payment("unkeyed"), signal }));
      note("unkeyed", attempt, "heard", { status, wait: status < 500 ? null : wait });
      if (status < 500 || wait === null) return status;
    } catch (error) {
      note("unkeyed", attempt, "heard", { error, wait });
      if (wait === null) throw error;
    }
    await pause(wait);
  }
}

function payment(side) {
  const { customer, seller } = run.accounts[side];
  const body = JSON.stringify({ from: customer, to: seller, amount: PRICE });
  return { method: "POST", headers: { "Content-Type": "application/json" }, body };
}

function timeoutOf({ failure }) {
  const { timeout } = FAILURES[failure];
  return timeout ? { timeout } : {};
}

function nextAttempt(side) {
  return (run.attempts[side] += 1);
}

/** Sends an attempt, and tells the faulty network what to do to it. */
function send(side, attempt, request) {
  note(side, attempt, "sent", { key: request.headers.get("Idempotency-Key") });
  const headers = new Headers(request.headers);
  headers.set("Page-Run", run.id);
  headers.set("Page-Side", side);
  headers.set("Page-Attempt", attempt);
  const { fault } = FAILURES[run.failure];
  if (fault && attempt === 1) headers.set("Page-Fault", fault);
  return fetch(new Request(request, { headers }));
}

// A payment, from the click to the last word of the server

async function pay(failure) {
  const id = newKey();
  const answer = await fetch(new URL(`runs/${id}`, import.meta.url), { method: "PUT" });
  if (!answer.ok) throw new Error(`The shop answered ${answer.status}.`);
  run = {
    id,
    failure,
    number: (history.at(-1)?.number ?? 0) + 1,
    accounts: await answer.json(),
    began: Date.now(),
    attempts: { keyed: 0, unkeyed: 0 },
    answered: {},
    events: [],
    over: false,
  };
  server = nothingYet();
  forgetPayment();
  await goOn({ clicks: FAILURES[failure].clicks ?? 1 });
}

async function takeUp() {
  for (const side of Object.keys(SIDES)) {
    if (!run.answered[side]) note(side, run.attempts[side], "reloaded");
  }
  await goOn({ clicks: 1 });
}

async function goOn({ clicks }) {
  announce("Paying…");
  let paying = true;
  const watching = watch(() => paying);
  const clicked = [];
  for (let click = 0; click < clicks; click++) {
    if (click) await pause(150);
    for (const side of Object.keys(SIDES)) if (!run.answered[side]) clicked.push(payAt(side));
  }
  await Promise.all(clicked);
  paying = false;
  await watching;
  conclude();
}

async function payAt(side) {
  try {
    await SIDES[side](run);
    run.answered[side] = true;
  } catch (error) {
    note(side, run.attempts[side], "gave-up", { message: error.message });
  }
}

/** Looks at the server's side for as long as anybody is at work. */
async function watch(paying) {
  for (;;) {
    const last = !paying();
    const answer = await fetch(new URL(`runs/${run.id}`, import.meta.url));
    if (answer.ok) server = await answer.json();
    draw();
    if (FAILURES[run.failure].reload && !run.reloaded && bothAtWork()) reload();
    if (last && server.working === 0) return;
    await pause(LOOK_EVERY);
  }
}

function bothAtWork() {
  return Object.keys(SIDES).every((side) => server.events.some((e) => e.side === side && e.what === "working"));
}

function reload() {
  run.reloaded = true;
  save();
  location.reload();
}

function conclude() {
  run.over = true;
  const moved = (side) => server.transfers[side].length;
  history.push({ number: run.number, failure: run.failure, keyed: moved("keyed"), unkeyed: moved("unkeyed") });
  run.server = server;
  save();
  draw();
  announceEnd(run, server);
}

// What is remembered and shown

function note(side, attempt, what, detail = {}) {
  const { error, ...rest } = detail;
  run.events.push({ at: Date.now(), side, attempt, what, ...rest, error: error?.name });
  save();
  draw();
}

function nothingYet() {
  return { events: [], working: 0, transfers: { keyed: [], unkeyed: [] } };
}

function save() {
  sessionStorage.setItem("run", JSON.stringify(run));
  sessionStorage.setItem("history", JSON.stringify(history));
}

function draw() {
  for (const side of Object.keys(SIDES)) show(side, run, server, PRICE, timeoutOf(run).timeout ?? PATIENCE.timeout);
  showHistory(history);
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** One payment at a time. The button stays where the focus is, and says that it is busy. */
async function busy(work) {
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } catch (error) {
    announce(`The shop cannot be reached. Is it still running? (${error.message})`);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (button.getAttribute("aria-disabled")) return;
  busy(() => pay(new FormData(form).get("failure")));
});

if (run) {
  form.elements.failure.value = run.failure;
  if (run.over) {
    server = run.server;
    draw();
    announceEnd(run, server);
  } else {
    busy(takeUp);
  }
}
