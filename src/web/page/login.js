// The gate: the first login with the one-time code, every other one with name and password.

import { call, known } from "./api.js";
import { dialog, h, toast } from "./dom.js";

export function loginPage(app, session, entered) {
  let first = session.firstLogin;
  const problem = h("p", { class: "outcome bad", role: "alert" });

  const draw = () => {
    const account = h("input", { name: "username", autocomplete: "username", required: true, autocapitalize: "none", spellcheck: false });
    const password = h("input", { name: "password", type: "password", required: true, autocomplete: first ? "new-password" : "current-password", minLength: first ? 12 : 0 });
    const code = h("input", { name: "code", required: true, autocomplete: "one-time-code", autocapitalize: "characters", spellcheck: false, placeholder: "XXXX-XXXX-XXXX" });
    const press = h("button", { class: "main" }, first ? "Create the account" : "Log in");
    const submit = async (event) => {
      event.preventDefault();
      press.disabled = true;
      problem.textContent = "";
      const body = { account: account.value.trim(), password: password.value };
      if (first) body.code = code.value.trim();
      try {
        await call("POST", "/v1/session", body);
        await entered();
      } catch (error) {
        problem.textContent = `${error.message}${error.hint ? `: ${error.hint}` : ""}`;
        press.disabled = false;
        password.select();
      }
    };
    app.replaceChildren(h("div", { class: "gate" }, h("form", { class: "card stack", onsubmit: submit },
      h("div", {}, h("img", { src: "/assets/icon.svg", alt: "" }),
        h("h1", {}, first ? "Welcome" : "Log in"),
        h("p", { class: "soft" }, first
          ? "The gateway printed a one-time code when it first started. Use it to make your account."
          : "This is the gateway's own page; it works without the internet.")),
      first && h("label", {}, "One-time code", code),
      h("label", {}, "Name", account),
      h("label", {}, first ? "Choose a password " : "Password ", first && h("span", { class: "hint" }, "(at least 12 characters)"), password),
      problem, press,
      h("button", { type: "button", class: "quiet", onclick: () => { first = !first; problem.textContent = ""; draw(); } },
        first ? "I have an account" : "I have a one-time code"),
      first && h("p", { class: "faint small" }, "No code at hand? On the gateway: headgate credential login-code"))));
    (first ? code : account).focus();
  };
  draw();
}

/** Asks once more for the password before something that changes who may enter. */
export const askForProof = () => dialog("Confirm it is you", (done) => {
  const password = h("input", { type: "password", autocomplete: "current-password", required: true });
  const submit = async (event) => {
    event.preventDefault();
    try {
      await call("POST", "/v1/session/proof", { password: password.value });
      done(true);
    } catch (error) {
      toast(error.message, "bad");
      password.select();
    }
  };
  return h("form", { onsubmit: submit },
    h("p", { class: "soft" }, `This changes who may enter. Password of ${known.session?.account}:`),
    password,
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => done(false) }, "Cancel"), h("button", { class: "main" }, "Confirm")));
});
