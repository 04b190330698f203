"use strict";
// The page's script: the files of this folder in the order of mod.rs, in one function, so that nothing of it
// is global. Text from outside reaches the document as text only: textContent and createElement.
(() => {
