// A day begins at the reader's midnight: ask for it in the reader's time zone, unless one was asked for.
const shown = document.getElementById("day").dataset.zone;
const mine = Intl.DateTimeFormat().resolvedOptions().timeZone;
const query = new URLSearchParams(location.search);
if (mine && mine !== shown && !query.has("zone")) {
  query.set("zone", mine);
  location.replace(`/journal?${query}`);
}
