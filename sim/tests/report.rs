//! The report of a short run: one page that holds everything, says the same of the same run, and loads nothing.

use nokv_sim::report::page::{Commands, page};
use nokv_sim::{Given, RunOptions};
use serde_json::Value;
use std::time::Duration;

fn html() -> String {
    let options = RunOptions { given: Given::duration(Duration::from_secs(3)), ..RunOptions::seed(7) };
    let commands = Commands {
        title: "seed 7 </script><b>".to_owned(),
        replay: "nokv sim run --seed 7 --duration 3000ms".to_owned(),
        shrink: None,
        report: "nokv sim report --seed 7 --duration 3000ms".to_owned(),
    };
    page(&options, &commands).1
}

fn data(html: &str) -> Value {
    let open = "<script type=\"application/json\" id=\"data\">";
    let (_, rest) = html.split_once(open).expect("data");
    let (data, _) = rest.split_once("</script>").expect("an end");
    serde_json::from_str(data).expect("JSON")
}

#[test]
fn the_page_is_whole_and_the_same_each_time() {
    let html = html();
    assert_eq!(html, self::html(), "equal runs give equal pages");
    for outside in ["http://", "https://", "@import", " src=", "<link", "fetch("] {
        assert!(!html.contains(outside), "the page refers to something outside: {outside}");
    }
    assert!(!html.contains("/*DATA*/"));
}

#[test]
fn the_page_shows_every_node_and_all_that_happened() {
    let data = data(&html());
    assert_eq!(data["title"], "seed 7 </script><b>", "data cannot end its element");
    let nodes: Vec<&str> =
        data["nodes"].as_array().expect("nodes").iter().filter_map(Value::as_str).collect();
    assert!(
        ["root1", "root3", "coord2", "store3", "client1"].iter().all(|name| nodes.contains(name)),
        "{nodes:?}"
    );

    let rows = data["rows"].as_array().expect("rows");
    let words = data["words"].as_array().expect("words").len() as u64;
    for (kind, what) in
        ["lives", "leaders", "lease", "faults", "operations", "marks", "packets"].iter().enumerate()
    {
        let count = rows.iter().filter(|row| row[0] == kind).count();
        assert!(count > 0 || *what == "faults", "no {what}");
    }
    for (index, _) in nodes.iter().enumerate() {
        assert!(rows.iter().any(|row| row[0] == 0 && row[3] == index), "{} has no life", nodes[index]);
    }
    for row in rows {
        assert!(row[6].as_u64().is_some_and(|place| place < words), "{row}");
        assert!(row[2].is_null() || row[2].as_u64() >= row[1].as_u64(), "ends before it begins: {row}");
        assert!(row[3].is_null() || row[3].as_u64().is_some_and(|node| node < nodes.len() as u64), "{row}");
    }
    let answered = |row: &&Value| row[0] == 4 && row[5] == 0;
    let told = data["counts"]["answered"].as_u64().expect("a number");
    assert!(rows.iter().filter(answered).count() as u64 >= told, "every answered operation has a bar");
    assert!(data["story"].as_array().is_some_and(|story| story.len() >= 3), "{}", data["story"]);
}
