// The status page: asks /status every two seconds and shows the answer. Texts are set as text, never as HTML.
"use strict";

const INTERVAL = 2000;
const PATIENCE = 5000;
const SVG = "http://www.w3.org/2000/svg";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** Makes an element with attributes and children; a string is a text. */
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const shown = new Map();

/** Replaces the content of a place if its data have changed, so that a selection and the focus stay. */
function show(place, data, build) {
  const text = JSON.stringify(data);
  if (shown.get(place) === text) return;
  shown.set(place, text);
  document.getElementById(place).replaceChildren(...build(data));
}

const plural = (count, noun) => `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A span of time, such as "3 h 20 min". */
function span(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = units.findIndex(([length]) => seconds >= length);
  if (first < 0) return "0 s";
  const [length, unit] = units[first];
  const rest = units[first + 1];
  const whole = `${Math.floor(seconds / length)} ${unit}`;
  const part = rest ? Math.floor((seconds % length) / rest[0]) : 0;
  return part > 0 ? `${whole} ${part} ${rest[1]}` : whole;
}

function figures(list) {
  const one = ([term, value, kind]) =>
    element("div", kind ? { class: kind } : {}, element("dt", {}, term), element("dd", {}, value));
  return element("dl", { class: "figures" }, ...list.map(one));
}

function facts(list) {
  const pairs = list.filter(Boolean).flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]);
  return element("dl", { class: "facts-list" }, ...pairs);
}

const state = (kind, text) => element("span", { class: `state ${kind}` }, text);

function legend(list) {
  const one = ([color, text]) => element("li", {}, element("i", { class: color, "aria-hidden": "true" }), text);
  return element("ul", { class: "legend" }, ...list.map(one));
}

/** Bars of stacked values: each of `columns` is a list of numbers, one for each color. */
function chart(columns, colors, label, titles, high) {
  const most = Math.max(1, ...columns.map((values) => values.reduce((sum, value) => sum + value, 0)));
  const bars = columns.flatMap((values, index) => {
    let below = 0;
    return values.map((value, kind) => {
      const height = (value / most) * 96;
      below += height;
      const box = { class: colors[kind], x: index + 0.1, y: 99 - below, width: 0.8, height };
      return value > 0 ? shape("rect", box, ...(titles ? [shape("title", {}, titles[index])] : [])) : null;
    });
  });
  const width = Math.max(1, columns.length);
  return shape(
    "svg",
    { class: high ? "chart high" : "chart", viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    ...bars,
    shape("line", { class: "base", x1: 0, x2: width, y1: 99.5, y2: 99.5, "vector-effect": "non-scaling-stroke" }),
  );
}

function requests({ window_seconds, hit_ratio, by_outcome, hits_and_others_by_second: seconds }) {
  const all = Object.values(by_outcome).reduce((sum, count) => sum + count, 0);
  const waited = by_outcome.miss + by_outcome.collapsed + by_outcome.stale;
  const refused = by_outcome.denied + by_outcome.invalid + by_outcome.limited;
  const label = `${plural(all, "request")} in the last ${span(window_seconds)}, of which ${number.format(by_outcome.hit)} were hits`;
  // Room for a whole minute, so that a second has its width from the start on.
  const columns = [...Array(Math.max(0, 60 - seconds.length)).fill([0, 0]), ...seconds];
  return [
    figures([
      ["hit ratio", hit_ratio === null ? "–" : percent.format(hit_ratio), "main"],
      ["a second", window_seconds > 0 ? number.format(all / window_seconds) : "–"],
      ["waited", number.format(waited)],
      ["refused", number.format(refused)],
      ["failed", number.format(by_outcome.failed)],
    ]),
    chart(columns, ["blue", "orange"], label),
    element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, "60 s ago"), element("span", {}, "now")),
    legend([["blue", "hits"], ["orange", "waited, limited or failed"]]),
  ];
}

function coverage(shares) {
  const one = ([length, share]) => {
    const part = element("div", { class: "blue" });
    part.style.width = `${share * 100}%`;
    const name = `outage of ${length.replace("m", " minutes")}`;
    const meter = { class: "bar", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100 };
    const value = { "aria-valuenow": Math.round(share * 100), "aria-valuetext": percent.format(share) };
    return [
      element("span", {}, length.replace("m", " min")),
      element("div", { ...meter, ...value }, part),
      element("span", { class: "number" }, percent.format(share)),
    ];
  };
  return [element("div", { class: "meters" }, ...["5m", "15m", "60m"].map((length) => [length, shares[length]]).flatMap(one))];
}

const endSpan = (step, index) => `${index === 0 ? "now" : span(step * index)} to ${span(step * (index + 1))}`;

function ends({ tokens, step_seconds: step, counts, later }) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(0, ...counts);
  const label = `${plural(all, "token")} end within ${span(step * counts.length)}; at most ${number.format(most)} in ${span(step)}`;
  const titles = counts.map((count, index) => `${endSpan(step, index)}: ${plural(count, "token")}`);
  const columns = [...counts, ...(counts.length % 2 === 1 ? [0] : [])];
  const marks = ["now", span((columns.length / 2) * step), span(columns.length * step)];
  return [
    figures([
      ["tokens in memory", number.format(tokens)],
      [`most in ${span(step)}`, number.format(most)],
      ...(later > 0 ? [["end more than 45 days from now", number.format(later)]] : []),
    ]),
    ...(counts.length > 0
      ? [
          chart(columns.map((count) => [count]), ["blue"], label, titles, true),
          element("div", { class: "axis", "aria-hidden": "true" }, ...marks.map((mark) => element("span", {}, mark))),
        ]
      : [element("p", { class: "note" }, tokens === 0 ? "No token is in memory." : "All tokens end more than 45 days from now.")]),
  ];
}

function endsTable({ step_seconds: step, counts }) {
  const row = (count, index) => element("tr", {}, element("td", {}, endSpan(step, index)), element("td", {}, number.format(count)));
  const head = element("tr", {}, element("th", { scope: "col" }, "from now"), element("th", { scope: "col" }, "tokens"));
  return [element("table", {}, element("thead", {}, head), element("tbody", {}, ...counts.map(row)))];
}

const BREAKER = {
  closed: ["good", "closed"],
  "renewals held back": ["warn", "renewals held back: most calls fail"],
  "half-open": ["warn", "half-open: a probe is under way"],
  open: ["bad", "open: Courier is failing"],
};

function throttle({ requests_per_second: whole, present_requests_per_second: present, paused_seconds: paused }) {
  if (paused > 0) return state("bad", `paused for ${span(Math.ceil(paused))}, as Courier asked`);
  if (present < whole) return state("warn", `${number.format(present)} of ${plural(whole, "call")} a second`);
  return state("good", `none: ${plural(whole, "call")} a second`);
}

function workspace({ name, breaker, budget, calls, queued, renewals }, index) {
  const allowed = Math.max(1, budget.requests_per_second * calls.window_seconds);
  const classes = [["orange", "waiting", "for users who wait"], ["blue", "renewal", "for renewals"], ["teal", "ahead", "ahead of requests"]];
  const used = classes.reduce((sum, [, kind]) => sum + calls[kind], 0);
  const share = percent.format(used / allowed);
  const scale = Math.max(allowed, used);
  const parts = classes.map(([color, kind]) => {
    const part = element("div", { class: color });
    part.style.width = `${(calls[kind] / scale) * 100}%`;
    return part;
  });
  const texts = classes.map(([color, kind, text]) => [color, `${number.format(calls[kind])} ${text}`]);
  const waiting = classes.filter(([, kind]) => queued[kind] > 0).map(([, kind, text]) => `${number.format(queued[kind])} ${text}`);
  const [kind, text] = BREAKER[breaker] ?? ["warn", breaker];
  const title = `workspace-${index}`;
  return element(
    "section",
    { "aria-labelledby": title },
    element("h2", { id: title }, `Workspace ${name}`),
    element("p", { class: "note" }, `Budget used in the last minute: ${share}, ${plural(used, "call")}`),
    element("div", { class: "bar", role: "img", "aria-label": `budget used: ${share}` }, ...parts),
    legend(texts),
    facts([
      ["Circuit breaker", state(kind, text)],
      ["Throttle", throttle(budget)],
      ["Failed calls", calls.failed > 0 ? state("warn", `${number.format(calls.failed)} in the last minute`) : "none in the last minute"],
      ["Queue", waiting.length > 0 ? waiting.join(", ") : "empty"],
      ["Renewals", `${number.format(renewals.issued)} issued, ${number.format(renewals.failed)} failed`],
      renewals.used === null ? null : ["Fetched ahead", `${number.format(renewals.used)} used, ${number.format(renewals.wasted)} wasted`],
      ["Extra calls", `${percent.format(Math.max(0, renewals.extra_calls_ratio))} beyond those without renewals`],
    ]),
  );
}

function surroundings({ store, fleet, refresh_mode, last_reload }) {
  const isGood = store.state === "ok";
  return element(
    "section",
    { "aria-labelledby": "store-title" },
    element("h2", { id: "store-title" }, "Store and fleet"),
    facts([
      ["Store", store.kind],
      ["State", state(isGood ? "good" : "bad", store.state)],
      ["Fleet", fleet === null ? "this broker alone" : `${plural(fleet.live, "member")} live`],
      fleet === null ? null : ["Missing", fleet.missing > 0 ? state("warn", plural(fleet.missing, "member")) : "none"],
      ["Renewal mode", refresh_mode],
      ["Last reload", last_reload === "applied" ? "applied, or none yet" : state("bad", "rejected: the settings before it are in use")],
    ]),
  );
}

function errors(list) {
  if (list.length === 0) return [element("p", {}, "None since the start.")];
  const one = ({ level, message, cause, workspace: name, client, count, last_at }) => {
    const about = [name && `workspace ${name}`, client && `client ${client}`, count > 1 && `${number.format(count)} times`];
    return element(
      "li",
      {},
      element("p", {}, state(level === "error" ? "bad" : "warn", level), ` ${message}`),
      cause === null ? null : element("p", {}, cause),
      element("p", { class: "when" }, [`last at ${clock.format(new Date(last_at))}`, ...about.filter(Boolean)].join(", ")),
    );
  };
  return [element("ul", { class: "errors" }, ...list.map(one))];
}

function showStatus(status) {
  const { version, uptime_seconds, ready, tokens } = status;
  document.getElementById("facts").textContent = `${version}, ${ready ? "ready" : "not ready"}, up for ${span(uptime_seconds)}`;
  show("requests", status.requests, requests);
  show("coverage", status.coverage, coverage);
  show("ends", { tokens, ...status.token_ends }, ends);
  show("ends-table", status.token_ends, endsTable);
  const { store, fleet, refresh_mode, last_reload, workspaces } = status;
  show("workspaces", { workspaces, about: { store, fleet, refresh_mode, last_reload } }, (data) => [
    ...data.workspaces.map(workspace),
    surroundings(data.about),
  ]);
  show("errors", status.errors, errors);
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.message ?? `status ${answer.status}`);
  return body;
}

let heard = null;

/** Says whether the broker answers. The text changes only with that, so that screen readers are not disturbed. */
function connected(problem) {
  const place = document.getElementById("connection");
  const lost = heard
    ? `The broker has not answered since ${clock.format(heard)} (${problem}). Everything below is from then.`
    : `The broker does not answer (${problem}).`;
  const text = problem === null ? "Live" : lost;
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("lost", problem !== null);
  document.title = problem === null ? "courier-token-broker" : "No answer: courier-token-broker";
}

async function poll() {
  try {
    const status = await ask("status");
    heard = new Date();
    connected(null);
    showStatus(status);
  } catch (error) {
    connected(error.name === "TimeoutError" ? `no answer within ${span(PATIENCE / 1000)}` : error.message);
  }
}

async function run() {
  for (;;) {
    // A hidden page asks nothing.
    if (!document.hidden) await poll();
    await new Promise((wake) => setTimeout(wake, INTERVAL));
  }
}

const VERDICTS = { renew: "renew", wait: "not now: decide again later", stop: "let it end" };

function explained(token) {
  const at = (time) => (time === null ? "–" : date.format(new Date(time)));
  const { decision } = token;
  const reason = decision?.reason ? ` (${decision.reason})` : "";
  return element(
    "div",
    { class: "token" },
    element("h3", {}, `${token.users.join(", ")}, workspace ${token.workspace}`),
    facts([
      ["Scopes", token.scopes],
      ["Lifetime", span(token.lifetime_seconds)],
      ["Issued", at(token.issued_at)],
      ["Ends", at(token.expires_at)],
      ["Due", at(token.due_at)],
      ["Handed out", plural(token.uses, "time")],
      ["State", token.state],
      ["Last decision", decision === null ? "none yet" : `${VERDICTS[decision.verdict] ?? decision.verdict}${reason}, ${at(decision.at)}`],
      decision?.learned
        ? ["Chance of use", `${percent.format(decision.learned.used_within_a_window)}; avoids ${number.format(decision.learned.delays_avoided_per_extra_call)} waits for each extra call, price ${number.format(decision.learned.price)}`]
        : null,
      token.last_error === null ? null : ["Last error", token.last_error],
    ]),
  );
}

async function explain(event) {
  event.preventDefault();
  const user = document.getElementById("user").value;
  const [summary, place] = ["explained-summary", "explained"].map((id) => document.getElementById(id));
  try {
    const { tokens } = await ask(`explain?user=${encodeURIComponent(user)}`);
    summary.textContent = tokens.length === 0 ? `Nothing is known of ${user}.` : `${plural(tokens.length, "token")} of ${user}.`;
    place.replaceChildren(...tokens.map(explained));
  } catch (error) {
    summary.textContent = `No answer: ${error.message}`;
    place.replaceChildren();
  }
}

document.getElementById("explain").addEventListener("submit", explain);
document.addEventListener("visibilitychange", () => document.hidden || poll());
run();
