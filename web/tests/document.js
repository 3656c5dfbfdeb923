// As much of a document as the code under test touches.

class Element {
  constructor(name) {
    this.nodeName = name.toUpperCase();
    this.classes = [];
    this.classList = { add: (one) => this.classes.push(one) };
    this.style = {};
    this.textContent = "";
  }
}

globalThis.document = {
  createTextNode: (text) => ({ nodeName: "#text", textContent: text }),
  createElement: (name) => new Element(name),
};
