// What the page does beyond its forms and links, all of which work without it.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // The live view: shown where one asks for it, and let go while nobody looks.
  const view = byId("view"), picture = byId("picture"), watch = byId("watch");
  if (view && watch) {
    const hint = watch.parentElement;
    let on = false;
    const show = (wanted) => {
      on = wanted;
      picture.hidden = !on;
      if (on) picture.src = view.dataset.source + "?" + Date.now();
      else picture.removeAttribute("src");
      watch.textContent = on ? "Stop" : "Watch live";
      hint.classList.toggle("corner", on);
    };
    watch.setAttribute("role", "button");
    watch.addEventListener("click", (event) => { event.preventDefault(); show(!on); });
    watch.addEventListener("keydown", (event) => { if (event.key === " ") { event.preventDefault(); show(!on); } });
    document.addEventListener("visibilitychange", () => { if (on) { if (document.hidden) picture.removeAttribute("src"); else show(true); } });
    picture.addEventListener("error", () => { if (on && !document.hidden) setTimeout(() => { if (on) show(true); }, 3000); });
  }

  // Something is being worked out. To look again would call back who is leaving.
  if (byId("again")) {
    const soon = setTimeout(() => location.reload(), 2000);
    window.addEventListener("beforeunload", () => clearTimeout(soon));
  }

  // Who came by, kept up to date; not while somebody is in the middle of answering.
  const timeline = byId("timeline");
  if (timeline && "live" in timeline.dataset) {
    let tag = "";
    setInterval(async () => {
      if (document.hidden || timeline.querySelector("details[open]") || timeline.contains(document.activeElement)) return;
      try {
        const answer = await fetch(timeline.dataset.source, { headers: tag ? { "If-None-Match": tag } : {} });
        if (answer.redirected) location.reload();
        if (answer.status !== 200) return;
        tag = answer.headers.get("ETag") || "";
        const before = timeline.firstElementChild.dataset.watching;
        timeline.innerHTML = await answer.text();
        if (timeline.firstElementChild.dataset.watching !== before) location.reload();  // the recogniser has come, or gone
      } catch { /* the page is away for a moment: try again */ }
    }, 3000);
  }

  // A new person: what was chosen is shown, and the camera of this device can take pictures.
  const photos = byId("photos"), chosen = byId("chosen"), form = byId("add");
  if (photos) {
    const list = () => {
      chosen.replaceChildren(...[...photos.files].map((file) => {
        const item = document.createElement("li"), image = document.createElement("img");
        image.src = URL.createObjectURL(file);
        image.onload = () => URL.revokeObjectURL(image.src);
        image.className = "face";
        image.alt = file.name;
        item.append(image);
        return item;
      }));
    };
    photos.addEventListener("change", list);
    form.addEventListener("submit", () => { const button = form.querySelector("button:not([type])"); button.disabled = true; button.textContent = "Looking at them …"; });
    const camera = byId("camera"), video = byId("video"), on = byId("camera-on"), snap = byId("snap"), told = byId("camera-told");
    if (navigator.mediaDevices && window.DataTransfer) camera.hidden = false;
    on.addEventListener("click", async () => {
      try {
        video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
        await video.play();
        video.hidden = snap.hidden = false;
        on.hidden = true;
      } catch (error) { told.textContent = "The camera cannot be used: " + error.message; }
    });
    snap.addEventListener("click", () => {
      const canvas = document.createElement("canvas");
      canvas.width = video.videoWidth;
      canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => {
        const all = new DataTransfer();
        for (const file of photos.files) all.items.add(file);
        all.items.add(new File([blob], `camera ${all.files.length + 1}.jpg`, { type: "image/jpeg" }));
        photos.files = all.files;
        told.textContent = `Pictures: ${all.files.length}`;
        list();
      }, "image/jpeg", 0.92);
    });
  }
})();
