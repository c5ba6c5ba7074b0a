// placeholder until the tools of the driver are described
import { h } from "./dom.js";

export function toolsPage(body) {
  body.append(h("div", { class: "title" }, h("h1", {}, "Modbus tools")));
}
