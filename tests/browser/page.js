// What the page does with the browser's WebSocket. Each scenario's result goes into one report,
// which is sent when all have run; what it means is the tests' business.
"use strict";

const PATIENCE = 5000;
const MEBIBYTE = 1024 * 1024;
// Without a gateway, the sockets' upstream has an address of its own.
const HOST = new URLSearchParams(location.search).get("sockets") ?? `${location.host}/ws`;

function connect(path, protocols = []) {
  const ws = new WebSocket(`ws://${HOST}/${path}`, protocols);
  return equip(ws);
}

function equip(ws) {
  const received = [];
  const waiting = [];
  let errors = 0;
  ws.binaryType = "arraybuffer";
  ws.addEventListener("error", () => { errors += 1; });
  ws.addEventListener("message", ({ data }) => {
    const waiter = waiting.shift();
    if (waiter) waiter(data);
    else received.push(data);
  });
  ws.receive = () => received.length
    ? Promise.resolve(received.shift())
    : new Promise((resolve) => waiting.push(resolve));
  ws.received = received;
  ws.ended = new Promise((resolve) => {
    ws.addEventListener("close", ({ code, reason, wasClean }) => {
      resolve({ code, reason, wasClean, errors });
    });
  });
  ws.opened = new Promise((resolve, reject) => {
    ws.addEventListener("open", () => resolve(ws));
    ws.ended.then(({ code }) => reject(new Error(`closed with ${code}`)));
  });
  ws.opened.catch(() => {});
  return ws;
}

async function finish(ws) {
  ws.close(1000);
  return ws.ended;
}

function bytes(size, salt) {
  const array = new Uint8Array(size);
  for (let at = 0, value = salt; at < size; at += 1) {
    value = (value * 1103515245 + 12345) & 0x7fffffff;
    array[at] = value >> 16;
  }
  return array;
}

function same(sent, got) {
  if (!(got instanceof ArrayBuffer) || got.byteLength !== sent.byteLength) return false;
  const other = new Uint8Array(got);
  return sent.every((value, at) => value === other[at]);
}

async function echoes(name, messages, equal) {
  const ws = await connect(`echo/${name}`).opened;
  const results = [];
  for (const message of messages) {
    ws.send(message);
    results.push(equal(message, await ws.receive()));
  }
  await finish(ws);
  return results;
}

const scenarios = {
  // The handshake

  async chosen(name) {
    const ws = await connect(`chooses/${name}`, ["superchat", "chat", "v2.chat-x"]).opened;
    const { protocol } = ws;
    await finish(ws);
    return protocol;
  },

  async no_offer(name) {
    const ws = await connect(`chooses/${name}`).opened;
    const { protocol } = ws;
    await finish(ws);
    return protocol;
  },

  async none_chosen(name) {
    return connect(`echo/${name}`, ["superchat", "chat"]).ended;
  },

  async query(name) {
    return finish(await connect(`echo/${name}?a=%2F&a=b%20c&empty=&%C3%BC`).opened);
  },

  async cookie_of_the_page(name) {
    await finish(await connect(`echo/${name}`).opened);
    return document.cookie;
  },

  async cookies_of_the_handshake(name) {
    await finish(await connect(`cookies/${name}`).opened);
    const readable = document.cookie;
    await finish(await connect(`echo/${name}-next`).opened);
    return readable;
  },

  async extensions(name) {
    const ws = await connect(`echo/${name}`).opened;
    const { extensions } = ws;
    await finish(ws);
    return extensions;
  },

  // Messages

  async text(name) {
    return echoes(name, ["hello", "", "grüße \u{1f600}", "\u0000\u2028"], (a, b) => a === b);
  },

  async array_buffers(name) {
    const messages = [bytes(5, 1).buffer, new ArrayBuffer(0), bytes(300, 2).buffer];
    return echoes(name, messages, (a, b) => same(new Uint8Array(a), b));
  },

  async views(name) {
    return echoes(name, [bytes(20, 3).subarray(5, 15)], same);
  },

  async blobs(name) {
    const ws = await connect(`echo/${name}`).opened;
    ws.binaryType = "blob";
    const results = [];
    for (const part of [bytes(5, 4), new Uint8Array(0), bytes(70000, 5)]) {
      ws.send(new Blob([part]));
      const got = await ws.receive();
      results.push(got instanceof Blob && same(part, await got.arrayBuffer()));
    }
    await finish(ws);
    return results;
  },

  async a_mebibyte_of_text(name) {
    const text = "Line of text ü.\n".repeat(MEBIBYTE / 16);
    return echoes(name, [text, "small"], (a, b) => a === b);
  },

  async a_mebibyte_of_bytes(name) {
    return echoes(name, [bytes(MEBIBYTE, 6), bytes(3, 7)], same);
  },

  async fragments(name) {
    const ws = await connect(`fragments/${name}`).opened;
    const messages = [await ws.receive(), new Uint8Array(await ws.receive()).join()];
    await finish(ws);
    return messages;
  },

  async large(name) {
    return echoes(name, [new Uint8Array(8 * MEBIBYTE).fill(7)], same);
  },

  async order(name) {
    const ws = await connect(`echo/${name}`).opened;
    for (let number = 0; number < 1000; number += 1) ws.send(`${number}`);
    const numbers = [];
    while (numbers.length < 1000) numbers.push(Number(await ws.receive()));
    await finish(ws);
    return numbers.every((number, at) => number === at);
  },

  async many(name) {
    const sockets = [];
    // Five at a time: where more are being opened, the browser holds them back for seconds.
    for (let number = 0; number < 20; number += 5) {
      const five = [0, 1, 2, 3, 4].map((at) => connect(`echo/${name}?${number + at}`).opened);
      sockets.push(...await Promise.all(five));
    }
    sockets.forEach((ws, number) => ws.send(`I am ${number}`));
    const answers = await Promise.all(sockets.map((ws) => ws.receive()));
    await Promise.all(sockets.map(finish));
    return answers;
  },

  // Ending

  async closes(name) {
    const ends = [];
    for (const [code, reason] of [
      [1000, ""], [1000, "bye"], [1001, "later"], [1011, "broken"], [3000, ""],
      [4001, "schöne Grüße \u{1f44b}"], [4999, "x".repeat(123)],
    ]) {
      const query = new URLSearchParams({ code, reason });
      ends.push([[code, reason], await connect(`close/${name}?${query}`).ended]);
    }
    ends.push([[1005, ""], await connect(`close/${name}`).ended]);
    return ends;
  },

  async last_words(name) {
    const ws = connect(`push/${name}`);
    const end = await ws.ended;
    return [ws.received.length, ws.received.at(-1), end.code];
  },

  async page_closes(name) {
    const ws = await connect(`echo/${name}`).opened;
    ws.close(4002, "bye ü");
    return ws.ended;
  },

  async page_closes_without_code(name) {
    const ws = await connect(`echo/${name}`).opened;
    ws.close();
    return ws.ended;
  },

  async page_closes_behind_messages(name) {
    const ws = await connect(`sink/${name}`).opened;
    for (let number = 0; number < 100; number += 1) ws.send(`${number}`);
    ws.close(1000);
    return ws.ended;
  },

  async page_closes_while_it_receives(name) {
    const ws = await connect(`stream/${name}`).opened;
    await ws.receive();
    ws.close(4003, "enough");
    return ws.ended;
  },

  async page_leaves(name) {
    const frame = document.body.appendChild(document.createElement("iframe"));
    const ws = new frame.contentWindow.WebSocket(`ws://${HOST}/echo/${name}`);
    await equip(ws).opened;
    frame.remove();
    return true;
  },

  async vanished(name) {
    const ws = await connect(`vanish/${name}`).opened;
    ws.send("go");
    return ws.ended;
  },

  async refused(name) {
    const ends = {};
    for (const status of [302, 401, 403, 404, 503]) {
      ends[status] = await connect(`refuse/${name}?status=${status}`).ended;
    }
    return ends;
  },

  async after_the_refusals(name) {
    return echoes(name, ["still here"], (a, b) => a === b);
  },

  // Events, which are no WebSocket

  async events() {
    const source = new EventSource("/events");
    const got = [];
    await new Promise((resolve) => {
      source.onmessage = async ({ data, lastEventId }) => {
        got.push([data, lastEventId]);
        // Before the stream ends, or the browser would ask for more.
        if (lastEventId === "4") source.close();
        // The upstream sends the next one when it has heard that this one is here.
        await fetch(`/seen/${lastEventId}`, { method: "POST" });
        if (lastEventId === "4") resolve();
      };
    });
    return got;
  },
};

async function limited(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("took too long")), PATIENCE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function main() {
  const report = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    const began = performance.now();
    try {
      report[name] = { result: await limited(scenario(name)) };
    } catch (error) {
      report[name] = { error: String(error) };
    }
    report[name].milliseconds = Math.round(performance.now() - began);
  }
  await fetch("/report", { method: "POST", body: JSON.stringify(report) });
}

addEventListener("load", main);
