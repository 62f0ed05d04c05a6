// Browsers start no workers for pages that are opened as files. There the search runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "search"
      document.documentElement.append(frame)
      this.scope = frame.contentWindow
      this.scope.postMessage = (data) =>
        this.dispatchEvent(new MessageEvent("message", { data }))
      this.scope.importScripts = (...scripts) =>
        scripts.reduce((before, each) => before.then(() => this.load(each)), Promise.resolve())
      this.load(script).then(() => {
        this.ready = true
        this.waiting.forEach((data) => this.postMessage(data))
      })
    }

    load(script) {
      const element = this.scope.document.createElement("script")
      element.src = new URL(script, document.baseURI)
      return new Promise((loaded) => {
        element.onload = loaded
        this.scope.document.body.append(element)
      })
    }

    postMessage(data) {
      if (!this.ready) this.waiting.push(data)
      else this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data }))
    }

    terminate() {}
  }
}
