// Words and shapes for what happened: the browser's events and the server's, on one timeline.

const NAMES = {
  none: "Nothing",
  "lost-request": "Lost request",
  "lost-answer": "Lost answer",
  "slow-server": "Slow server",
  "crashed-worker": "Crashed worker",
  "double-click": "Double click",
  reload: "Reload in mid-payment",
};

const LESSONS = {
  none: "Keys cost nothing when all goes well. But no browser knows beforehand that it will.",
  "lost-request":
    "The first request never arrived, so that trying again was right on both sides. But neither browser could tell " +
    "this from a lost answer.",
  "lost-answer":
    "The money had moved when the answer was lost. The retry with the key hears the answer that was kept; the one " +
    "without is a new payment.",
  "slow-server":
    "The browser gave up waiting, but the server did not give up working. With the key, the retry is told that the " +
    "first attempt is under way.",
  "crashed-worker":
    "The money and the answer are one transaction: the worker died with both on disk. The retry takes over its claim, " +
    "and finds them.",
  "double-click": "Both clicks carry one key: the second is told to wait, and hears the answer to the first.",
  reload: "The key outlived the page, which could take up the payment where it was. Without one, nothing told of it.",
};

const money = (amount) => `$${amount}`;
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(1)} s`;
const times = (count) => ["not at all", "once", "twice"][count] ?? `${count} times`;
const toneOf = (count) => ({ 0: "none", 1: "good" })[count] ?? "bad";

/** What the server's events say; those that say nothing new are left out. */
const SERVER = {
  arrived: ({ side }, { isFirst }) =>
    side === "unkeyed" && { text: isFirst ? "A payment: runs it" : "Another payment, it seems: runs it" },
  claimed: () => ({ text: "New key: claims it" }),
  "taken-over": () => ({ text: "The claim has lapsed: takes it over" }),
  "request-in-progress": () => ({ text: "Same key: its claim still stands" }),
  replayed: () => ({ text: "Same key: repeats the kept answer" }),
  working: ({ detail }) => ({ text: `Works for ${seconds(detail)}` }),
  moved: ({ detail }) => ({ money: `${money(detail)} moved` }),
  "moved-before": () => ({ text: "Finds the answer beside the money; nothing moves" }),
  died: () => ({ text: "The worker dies", tone: "bad", arrow: "back", lost: true }),
  "left-to-lapse": () => ({ text: "Its claim is no longer renewed" }),
  completed: () => ({ text: "Keeps the answer" }),
  "request-lost": () => ({ text: "Hears nothing: the request is lost", tone: "bad" }),
  answered: ({ detail }, { gone }) =>
    gone
      ? { text: `Answers ${detail}; nobody listens`, arrow: "back", lost: true }
      : { text: `Answers ${detail}`, arrow: "back" },
  "answer-lost": ({ detail }) => ({ text: `Answers ${detail}, which is lost`, tone: "bad", arrow: "back", lost: true }),
};

const BROWSER = {
  sent: ({ attempt, key }) => ({ text: `Attempt ${attempt}`, key, arrow: "there" }),
  heard: ({ status, replayed, error, wait }, { timeout }) => {
    if (status === 201) return { text: replayed ? "Paid: the first answer again" : "Paid", tone: "good" };
    const again = wait === null ? "" : wait < 500 ? "; tries again" : `; again in ${seconds(wait)}`;
    if (error) return { text: (error === "TimeoutError" ? `No answer in ${seconds(timeout)}` : "No answer") + again };
    return { text: (status === 409 ? "Told to wait" : `Refused: ${status}`) + again };
  },
  reloaded: ({ side }) => ({
    text: side === "keyed" ? "Page reloaded; the key is still here" : "Page reloaded; pays anew",
  }),
  "gave-up": ({ message }) => ({ text: `Gives up: ${message}`, tone: "bad" }),
};

/** Elements by event, so that each stays what it is while others come before and after it. */
let drawn = new Map();

export function forgetPayment() {
  drawn = new Map();
  for (const list of document.querySelectorAll(".timeline")) list.replaceChildren();
}

/** Shows one side: the verdict of the books, and the timeline. */
export function show(side, run, server, price, timeout) {
  const section = document.getElementById(side);
  const count = server.transfers[side].length;
  section.dataset.times = count > 1 ? "more" : count;

  const verdict = section.querySelector(".verdict");
  const mark = { good: "✓ ", bad: "✕ " }[toneOf(count)] ?? "";
  verdict.textContent = count ? `${mark}${money(count * price)} moved: ${times(count)}` : "$0 moved";
  verdict.dataset.tone = toneOf(count);

  const browsers = run.events.filter((event) => event.side === side);
  const servers = server.events.filter((event) => event.side === side);
  const lost = new Set(servers.filter(({ what }) => what === "request-lost").map(({ attempt }) => attempt));
  const firstToArrive = servers.find(({ what }) => what === "arrived");
  const lines = [];
  for (const { actor, index, event } of merge(browsers, servers)) {
    const words = actor === "browser" ? BROWSER[event.what] : SERVER[event.what];
    const about = { timeout, gone: hungUp(browsers, event), isFirst: event === firstToArrive };
    const said = words ? words(event, about) : { text: event.what };
    if (!said) continue;
    const name = `${side}/${actor}/${index}`;
    if (!drawn.has(name)) drawn.set(name, line(actor, said, Math.max(0, event.at - run.began)));
    const element = drawn.get(name);
    element.toggleAttribute("data-lost", said.lost ?? (event.what === "sent" && lost.has(event.attempt)));
    lines.push(element);
  }
  const list = section.querySelector("ol");
  // Only what is new moves, so that nobody loses the line being read.
  lines.forEach((element, n) => {
    if (list.children[n] !== element) list.insertBefore(element, list.children[n] ?? null);
  });
}

/** Whether the browser had given up an attempt when this happened to it. */
function hungUp(browsers, { attempt, at }) {
  return browsers.some(
    (event) =>
      event.at <= at &&
      ((event.what === "heard" && event.attempt === attempt && event.error) ||
        (event.what === "reloaded" && event.attempt >= attempt)),
  );
}

/** By the clock that both share; where it shows the same millisecond, what is sent comes first, what is heard last. */
function merge(browsers, servers) {
  const rank = { sent: 0, reloaded: 0 };
  const all = [
    ...browsers.map((event, index) => ({ actor: "browser", index, event, rank: rank[event.what] ?? 2 })),
    ...servers.map((event, index) => ({ actor: "server", index, event, rank: 1 })),
  ];
  return all.sort((one, other) => one.event.at - other.event.at || one.rank - other.rank);
}

function line(actor, { text, key, money: sum, tone, arrow }, after) {
  const item = document.createElement("li");
  item.dataset.actor = actor;
  if (tone) item.dataset.tone = tone;
  if (arrow) item.dataset.arrow = arrow;
  const time = make("time", `${(after / 1000).toFixed(2)} s`);
  time.dateTime = `PT${(after / 1000).toFixed(3)}S`;
  const words = document.createElement("p");
  words.append(make("span", actor === "browser" ? "Browser: " : "Server: ", "unseen"));
  if (sum) words.append(make("span", sum, "money"));
  else words.append(text);
  if (key) words.append(" ", make("code", `key ${key.slice(0, 8)}`));
  const channel = make("span", "", "channel");
  channel.setAttribute("aria-hidden", "true");
  item.append(time, words, channel);
  return item;
}

/** Says a sentence to all, those who listen included. */
export function announce(sentence) {
  document.getElementById("status").textContent = sentence;
}

/** Says how a payment ended. */
export function announceEnd({ failure }, { transfers }) {
  const [keyed, unkeyed] = [transfers.keyed.length, transfers.unkeyed.length];
  const verdict =
    keyed === unkeyed
      ? `On both sides, the money moved ${times(keyed)}.`
      : `With a key the money moved ${times(keyed)}, without one ${times(unkeyed)}.`;
  document.getElementById("status").replaceChildren(make("strong", verdict), ` ${LESSONS[failure]}`);
}

export function showHistory(history) {
  document.getElementById("history").hidden = history.length === 0;
  const rows = document.querySelector("#history tbody");
  for (const { number, failure, keyed, unkeyed } of history.slice(rows.children.length)) {
    const row = document.createElement("tr");
    row.append(make("td", number), make("td", NAMES[failure]));
    for (const count of [keyed, unkeyed]) {
      const cell = make("td", `Moved ${times(count)}`);
      cell.dataset.tone = toneOf(count);
      row.append(cell);
    }
    rows.append(row);
  }
}

function make(name, text, className) {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}
