// A table that sorts by its columns and shows a page of its rows at a time.

const PAGE = 50;

class Table {
  // Columns: key, title, text (left-aligned) or a number, value(row) to sort by, cell(row) to show.
  constructor(table, columns, sortedBy) {
    this.columns = columns;
    this.sorted = { key: sortedBy, down: true };
    this.shown = PAGE;
    this.rows = [];
    this.body = element("tbody");
    this.more = element("button", "more");
    this.more.type = "button";
    this.more.addEventListener("click", () => {
      this.shown *= 4;
      this.#fill();
    });
    this.heads = columns.map((column) => {
      const head = element("th", column.text ? "" : "number");
      head.scope = "col";
      if (column.value) {
        const button = element("button", "", column.title);
        button.type = "button";
        button.addEventListener("click", () => this.#sortBy(column));
        head.append(button);
      } else head.append(column.title);
      return head;
    });
    // With nothing held, what is there without a script is all there is.
    if (SAMPLES.length > 0) table.replaceChildren(element("thead", "", element("tr", "", ...this.heads)), this.body);
    table.after(this.more);
  }

  show(rows) {
    this.rows = rows;
    this.shown = PAGE;
    this.#fill();
  }

  #sortBy(column) {
    const down = this.sorted.key === column.key ? !this.sorted.down : !column.text;
    this.sorted = { key: column.key, down };
    this.#fill();
  }

  #fill() {
    const { key, down } = this.sorted;
    const column = this.columns.find((column) => column.key === key);
    const compare = (a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      // What is unknown comes last, whichever way.
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "string" ? x.localeCompare(y, "en") : x - y;
      return down ? -order : order;
    };
    const sorted = [...this.rows].sort(compare);
    this.heads.forEach((head, i) => {
      if (!this.columns[i].value) return;
      const order = down ? "descending" : "ascending";
      head.setAttribute("aria-sort", this.columns[i].key === key ? order : "none");
    });
    this.body.replaceChildren(...sorted.slice(0, this.shown).map((row) => this.#line(row)));
    const rest = sorted.length - this.shown;
    this.more.hidden = rest <= 0;
    this.more.textContent = `Show more: ${counted(Math.max(rest, 0), "row")} left`;
    if (sorted.length === 0) {
      const none = element("td", "dim", "None.");
      none.colSpan = this.columns.length;
      this.body.append(element("tr", "", none));
    }
  }

  #line(row) {
    const cells = this.columns.map((column) => {
      const cell = element("td", column.text ? "" : "number", column.cell(row));
      const title = column.exact?.(row);
      if (title) cell.title = title;
      return cell;
    });
    const line = element("tr", row.chosen ? "chosen" : "", ...cells);
    return line;
  }
}

// Outstanding bytes over the window, in the height of a line of text.
function sparkline(trend) {
  const [width, height] = [84, 18];
  const most = Math.max(...trend, 0);
  const svg = drawing("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  if (trend.length < 2 || most === 0) {
    svg.setAttribute("aria-label", "no trend");
    return svg;
  }
  const x = (i) => 1 + (i * (width - 2)) / (trend.length - 1);
  const y = (value) => height - 2 - (value / most) * (height - 4);
  const points = trend.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
  svg.setAttribute("aria-label", `from ${size(trend[0])} to ${size(trend[trend.length - 1])}`);
  const area = `${x(0)},${height} ${points.join(" ")} ${x(trend.length - 1)},${height}`;
  svg.append(
    drawing("polygon", { points: area, class: "spark-area" }),
    drawing("polyline", { points: points.join(" "), class: "spark-line" }),
  );
  return svg;
}
