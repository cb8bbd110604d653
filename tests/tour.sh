#!/usr/bin/env bash
# Runs the tour of README.md against a freshly started `annals serve` and compares every answer with the one shown.
#
#   tests/tour.sh            exit 0 when every command ran and every answer is as shown
#   tests/tour.sh --update   writes the answers that differ into README.md instead
#
# The commands and the answers are read from README.md itself, so that the two cannot drift: below the heading
# "## A tour", a fence of `sh` is a command, and the fence of `json` or `text` that follows it is its answer. All
# commands run in one shell, in order. Before two answers are compared, what differs from run to run (ids, times,
# tokens, hashes, durations, versions) is blanked on both sides. JSON is compared as data, text line by line.
#
# The server gets a free port, a data folder of its own and none of the caller's ANNALS_* settings. ANNALS_BIN names
# the binary to test; without it a release build is made, as the README says.
set -euo pipefail

tour_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tour_update=
case "${1-}" in
  '') ;;
  --update) tour_update=1 ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

for tour_program in awk curl diff jq sed; do
  command -v "$tour_program" >/dev/null || { echo "tour: $tour_program is needed" >&2; exit 2; }
done

tour_binary=${ANNALS_BIN:-}
if [ -z "$tour_binary" ]; then
  (cd "$tour_root" && cargo build --release --bin annals)
  tour_binary="${CARGO_TARGET_DIR:-$tour_root/target}/release/annals"
fi
[ -x "$tour_binary" ] || { echo "tour: no binary at $tour_binary" >&2; exit 2; }
tour_binary=$(cd "$(dirname "$tour_binary")" && pwd)/$(basename "$tour_binary")

for tour_name in "${!ANNALS_@}"; do unset "$tour_name"; done
unset DATABASE_URL

tour_work=$(mktemp -d)
# The database may run as another user, who has to be able to pass through.
chmod 0711 "$tour_work"
tour_server=

tour_finish() {
  local status=$?
  trap - EXIT
  if [ -n "$tour_server" ]; then
    kill -TERM "$tour_server" 2>/dev/null || true
    for _ in $(seq 300); do
      kill -0 "$tour_server" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$tour_server" 2>/dev/null || true
    wait "$tour_server" 2>/dev/null || true
  fi
  if [ "$status" -ne 0 ] && [ -s "$tour_work/serve.err" ]; then
    echo 'tour: the end of the server log:' >&2
    tail -n 20 "$tour_work/serve.err" >&2
  fi
  rm -rf "$tour_work"
  exit "$status"
}
trap tour_finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$tour_work"

# Every fence of the tour as a file of its own: NN.sh, and NN.json or NN.text beside it when an answer is shown.
awk -v folder="$tour_work" '
  /^## /                        { inside = ($0 == "## A tour") }
  !inside                       { next }
  fence != "" && /^```[ \t]*$/  { close(fence); fence = ""; next }
  fence != ""                   { print > fence; next }
  /^```sh[ \t]*$/               { number++; fence = sprintf("%s/%03d.sh", folder, number); printf "" > fence; next }
  /^```(json|text)[ \t]*$/      { kind = substr($1, 4); fence = sprintf("%s/%03d.%s", folder, number, kind); printf "" > fence; next }
' "$tour_root/README.md"
compgen -G "$tour_work/*.sh" >/dev/null || { echo 'tour: README.md has no commands below "## A tour"' >&2; exit 2; }

export ANNALS_DATA_DIR="$tour_work/annals-data"
ANNALS_LISTEN=127.0.0.1:0 "$tour_binary" serve >serve.out 2>serve.err </dev/null &
tour_server=$!
tour_address=
for _ in $(seq 600); do
  tour_address=$(sed -n 's#.*http://\(127\.0\.0\.1:[0-9]\{1,5\}\).*#\1#p' serve.out | head -n 1)
  [ -n "$tour_address" ] && break
  kill -0 "$tour_server" 2>/dev/null || { echo 'tour: the server ended at its start' >&2; exit 1; }
  sleep 0.1
done
[ -n "$tour_address" ] || { echo 'tour: the server does not say where it listens' >&2; exit 1; }
curl -fsS --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null "http://$tour_address/health/ready"

# jq: blanks what differs from run to run. A shown value may be cut short with an ellipsis where a token stands.
tour_blank='
  walk(
    if type != "string" then .
    elif test("^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$") then "<uuid>"
    elif test("^[0-9A-HJKMNP-TV-Z]{26}$") then "<ulid>"
    elif test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z$") then "<time>"
    elif test("^eyJ") or test("^[A-Za-z0-9_.-]{43,}$") or test("^[A-Za-z0-9_.-]*…$") then "<token>"
    else gsub("[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"; "<uuid>")
       | gsub("curl/[0-9.]+"; "curl/<version>")
    end)'

tour_blank_text() {
  sed -E \
    -e 's/[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}/<uuid>/g' \
    -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/<time>/g' \
    -e 's/\b[0-9a-f]{16,64}(…|\b)/<hash>/g' \
    -e 's/\b[0-9]+(\.[0-9]+)? ?(ms|s)\b/<duration>/g' \
    -e 's/[[:blank:]]+/ /g; s/ $//' "$1"
}

# tour_answer_differs NUMBER: writes the difference, and succeeds when there is one.
tour_answer_differs() {
  if [ -e "$1.json" ]; then
    jq -S "$tour_blank" "$1.json" >"$1.expected" || { echo 'the answer shown is not JSON'; return 0; }
    jq -S "$tour_blank" "$1.out" >"$1.actual" 2>/dev/null || { echo 'the answer is not JSON:'; cat "$1.out"; return 0; }
  elif [ -e "$1.text" ]; then
    tour_blank_text "$1.text" >"$1.expected"
    tour_blank_text "$1.out" >"$1.actual"
  else
    return 1
  fi
  ! diff -u --label shown --label answered "$1.expected" "$1.actual"
}

tour_passed=0
tour_failed=0
tour_changed=
for tour_block in *.sh; do
  tour_number=${tour_block%.sh}
  sed -i -e "s#127\.0\.0\.1:8080#$tour_address#g" -e "s#\\\$PWD/target/release#$(dirname "$tour_binary")#g" "$tour_block"
  tour_title=$(grep -v '^#' "$tour_block" | head -n 1 | cut -c 1-100)
  tour_status=0
  # shellcheck disable=SC1090
  source "./$tour_block" >"$tour_number.out" 2>"$tour_number.err" </dev/null || tour_status=$?
  sed -i "s#$tour_address#127.0.0.1:8080#g" "$tour_number.out"
  if [ "$tour_status" -ne 0 ]; then
    tour_failed=$((tour_failed + 1))
    printf 'FAILED  %s\nexit code %s\n' "$tour_title" "$tour_status"
    cat "$tour_number.out" "$tour_number.err"
  elif tour_difference=$(tour_answer_differs "$tour_number"); then
    if [ -n "$tour_update" ]; then
      tour_changed="$tour_changed $((10#$tour_number))"
      printf 'changed %s\n' "$tour_title"
    else
      tour_failed=$((tour_failed + 1))
      printf 'FAILED  %s\n%s\n' "$tour_title" "$tour_difference"
    fi
  else
    tour_passed=$((tour_passed + 1))
    printf 'ok      %s\n' "$tour_title"
  fi
done

if [ -n "$tour_changed" ]; then
  for tour_number in $tour_changed; do
    tour_file=$(printf '%03d' "$tour_number")
    if [ -e "$tour_file.json" ]; then
      # Tokens are cut short: nobody reads them, and no real one belongs on a page.
      jq 'walk(if type == "string" and (test("^eyJ") or test("^[A-Za-z0-9_.-]{43,}$")) then .[0:8] + "…" else . end)' \
        "$tour_file.out" >"$tour_file.new"
    else
      cp "$tour_file.out" "$tour_file.new"
    fi
  done
  awk -v folder="$tour_work" -v changed="$tour_changed " '
    /^## /                          { inside = ($0 == "## A tour") }
    inside && /^```sh[ \t]*$/       { number++ }
    skipping && /^```[ \t]*$/       { skipping = 0 }
    skipping                        { next }
                                    { print }
    inside && /^```(json|text)[ \t]*$/ && index(changed, " " number " ") {
      file = sprintf("%s/%03d.new", folder, number)
      while ((getline line < file) > 0) print line
      skipping = 1
    }
  ' "$tour_root/README.md" >README.new
  cat README.new >"$tour_root/README.md"
fi

printf 'tour: %d passed, %d failed\n' "$tour_passed" "$tour_failed"
[ "$tour_failed" -eq 0 ]
