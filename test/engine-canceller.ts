// The other thread of engine.test.ts: gets a program's handle, waits a little, cancels the program.
import { cancelProgram } from "../src/native/handles.ts"

declare const self: Worker

self.onmessage = ({ data }: MessageEvent<number>) => {
  Bun.sleepSync(50)
  cancelProgram(data)
}
self.postMessage("ready")
