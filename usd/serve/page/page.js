"use strict";
// The page asks for the list of jobs again and again. It holds nothing: closed and opened again it shows the same.
const $ = (id) => document.getElementById(id);
const cards = new Map();
const ACTIONS = {
  queued: ["pause", "cancel"], running: ["pause", "cancel"], pausing: ["cancel"], paused: ["resume", "cancel"],
  cancelling: [], cancelled: ["resume"], failed: ["resume"], done: [],
};
const WORDS = { pause: "Pause", resume: "Go on", cancel: "Cancel" };
const HINT = $("hint").textContent;
let picture = null;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(address, options) {
  const answer = await fetch(address, options);
  if (answer.ok) return answer.json();
  const { detail } = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Error(typeof detail === "string" ? detail : detail.map((one) => one.msg).join("; "));
}

// ---------------------------------------------------------------------------------------------------------- new job

function choose(file) {
  picture = file || null;
  $("chosen").hidden = !picture;
  $("hint").hidden = Boolean(picture);
  if ($("chosen").src) URL.revokeObjectURL($("chosen").src);
  if (picture) $("chosen").src = URL.createObjectURL(picture);
  else $("picture").value = "";
  showInput();
}

// A mesh may be dropped, too, alone or with the picture of it.
function take(files) {
  for (const file of files) {
    if (!/\.glb$/i.test(file.name)) { choose(file); continue; }
    const held = new DataTransfer();
    held.items.add(file);
    $("mesh").files = held.files;
  }
  showInput();
}

function showInput() {
  const mesh = $("mesh").files[0];
  $("hint").textContent = mesh ? `${mesh.name}: drop a picture of it, or choose one` : HINT;
  $("with").textContent = mesh && picture ? `with ${mesh.name}` : "";
  $("clear").hidden = !picture && !mesh;
  listRecipes();
}

let recipes = [];
function listRecipes() {
  const input = $("mesh").files[0] ? "mesh" : picture ? "picture" : "sentence";
  const fitting = recipes.filter((recipe) => recipe.input === input && !recipe.is_default);
  const usual = recipes.find((recipe) => recipe.input === input && recipe.is_default);
  const named = fitting.map(({ name }) => element("option", { value: name, textContent: name }));
  $("recipe").replaceChildren(element("option", { value: "", textContent: usual ? usual.name : "the usual one" }), ...named);
}

async function submit(event) {
  event.preventDefault();
  const form = new FormData();
  if (picture) form.append("picture", picture);
  if ($("mesh").files[0]) form.append("mesh", $("mesh").files[0]);
  form.append("sentence", $("sentence").value);
  form.append("recipe", $("recipe").value);
  for (const line of $("overrides").value.split("\n")) if (line.trim()) form.append("overrides", line.trim());
  $("make").disabled = true;
  $("problem").textContent = "";
  try {
    await ask("api/jobs", { method: "POST", body: form });
    $("sentence").value = $("mesh").value = "";
    choose(null);
    await refresh();
  } catch (error) {
    $("problem").textContent = error.message;
  }
  $("make").disabled = false;
}

// ------------------------------------------------------------------------------------------------------------- jobs

function makeCard(job) {
  const part = (name, tag = "p") => element(tag, { className: name });
  const card = {
    image: element("img", { alt: "", hidden: true }), empty: element("span", { textContent: "no picture yet" }),
    title: part("title", "h2"), state: part("state"), recipe: part("recipe"), error: part("error"),
    progress: element("progress", { hidden: true }), actions: part("row"), links: part("row"),
  };
  const shown = element("div", { className: "shown" }, card.image, card.empty);
  const text = element("div", { className: "text" }, card.title, card.state, card.progress, card.recipe, card.error,
    card.actions, card.links);
  card.whole = element("article", {}, shown, text);
  card.image.onerror = () => { card.image.hidden = true; card.empty.hidden = false; };
  card.image.onload = () => { card.image.hidden = false; card.empty.hidden = true; };
  return card;
}

function stateOf(job) {
  const { progress: at } = job;
  const took = job.seconds >= 60 ? `${Math.round(job.seconds / 60)} min` : `${Math.round(job.seconds)} s`;
  if (job.state === "done") return `done in ${took}`;
  if (!at) return job.state;
  return `${job.state}, ${at.stage}` + (at.steps ? `: step ${at.step} of ${at.steps}` : "");
}

async function act(card, job, name) {
  try {
    await ask(`api/jobs/${job.id}/${name}`, { method: "POST" });
    await refresh();
  } catch (error) {
    card.error.textContent = error.message;
  }
}

function showLinks(card, job) {
  const link = (href, textContent, download) => element("a", {
    className: "link", href, textContent, ...(download ? { download: "" } : { target: "_blank", rel: "noopener" }) });
  const links = job.report ? [link(`api/jobs/${job.id}/report`, "Report")] : [];
  for (const file of card.files || []) {
    const address = file.path.split("/").map(encodeURIComponent).join("/");
    links.push(link(`api/jobs/${job.id}/files/${address}`, file.path.split("/").pop(), true));
  }
  if (job.state !== "queued") links.push(link(`api/jobs/${job.id}/log`, "Log"));
  card.links.replaceChildren(...links);
}

function update(job) {
  if (!cards.has(job.id)) cards.set(job.id, makeCard(job));
  const card = cards.get(job.id);
  const now = JSON.stringify(job);
  if (card.now === now) return;
  card.now = now;
  card.whole.dataset.state = job.state;
  card.title.textContent = card.title.title = job.title;
  card.state.textContent = stateOf(job);
  card.recipe.textContent = [job.recipe, ...job.overrides].join("  ");
  card.error.textContent = job.error;
  card.image.alt = job.title;
  if (job.preview && card.shown !== job.preview) card.image.src = card.shown = job.preview;
  const at = job.progress;
  card.progress.hidden = !(at && at.steps);
  if (at && at.steps) Object.assign(card.progress, { max: at.steps, value: at.step });
  const button = (name) => element("button", { type: "button", textContent: WORDS[name], onclick: () => act(card, job, name) });
  card.actions.replaceChildren(...ACTIONS[job.state].map(button));
  showLinks(card, job);
  if (job.state === "done" && !card.files) listFiles(card, job);
}

// The exported mesh with all that belongs to it, and the turntables
async function listFiles(card, job) {
  const files = await ask(`api/jobs/${job.id}/files`).catch(() => []);
  const wanted = /-export\/[^/]+\.(glb|obj|mtl|ply|usdz|png|jpg|webp)$|-turntable\.mp4$/;
  card.files = files.filter((file) => wanted.test(file.path) && !file.path.includes("~"));
  showLinks(card, job);
}

async function refresh() {
  try {
    const jobs = await ask("api/jobs?limit=100");
    jobs.forEach(update);
    const wanted = jobs.map((job) => cards.get(job.id).whole);
    if (wanted.some((card, at) => $("jobs").children[at] !== card)) $("jobs").replaceChildren(...wanted);
    $("none").hidden = jobs.length > 0;
    $("offline").hidden = true;
  } catch {
    $("offline").hidden = false;
  }
}

async function watch() {
  if (!document.hidden) await refresh();
  setTimeout(watch, 2000);
}

for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files);
  });
}
$("picture").addEventListener("change", () => choose($("picture").files[0]));
$("mesh").addEventListener("change", showInput);
$("clear").addEventListener("click", () => { $("mesh").value = ""; choose(null); });
$("new").addEventListener("submit", submit);
ask("api/recipes").then((found) => { recipes = found; listRecipes(); }, () => {});
watch();
