// A viewer's WebSocket as noVNC wants one: bytes both ways. The deployed relay carries base64 in text frames, a repaired
// one bytes; servers of RFB speak first, so the first frame tells which of them it is.
export class Channel {
  constructor(socket) {
    this.socket = socket;
    this.asText = false;
    this.binaryType = "arraybuffer";
    this.protocol = "";
    this.onopen = this.onmessage = this.onclose = this.onerror = null;
    socket.binaryType = "arraybuffer";
    socket.onopen = (event) => {
      this.protocol = socket.protocol;
      this.onopen?.(event);
    };
    socket.onmessage = ({ data }) => this.arrived(data);
    socket.onclose = (event) => this.onclose?.(event);
    socket.onerror = (event) => this.onerror?.(event);
  }

  get readyState() {
    return this.socket.readyState;
  }

  arrived(data) {
    if (typeof data === "string") {
      this.asText = true;
      data = decoded(data);
    }
    if (data.byteLength > 0) this.onmessage?.({ data });
  }

  send(data) {
    this.socket.send(this.asText ? encoded(data) : data);
  }

  close(...why) {
    this.socket.close(...why);
  }
}

function decoded(text) {
  const letters = atob(text);
  const data = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at += 1) data[at] = letters.charCodeAt(at);
  return data.buffer;
}

const PIECE = 0x8000; // arguments of one call

function encoded(data) {
  const bytes = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
  let letters = "";
  for (let at = 0; at < bytes.length; at += PIECE) letters += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  return btoa(letters);
}
