//! The page: its parts are put together here, once.

use std::sync::LazyLock;

const FRAME: &str = include_str!("../../../console/index.html");
const STYLE: &str = include_str!("../../../console/style.css");
/// In the order in which they build on each other.
const SCRIPTS: [&str; 6] = [
    include_str!("../../../console/keys.js"),
    include_str!("../../../console/model.js"),
    include_str!("../../../console/charts.js"),
    include_str!("../../../console/map.js"),
    include_str!("../../../console/panels.js"),
    include_str!("../../../console/main.js"),
];

/// The page with everything but the nonce.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    FRAME
        .replace("{{style}}", STYLE)
        .replace("{{script}}", &SCRIPTS.concat())
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
});

/// The page, whose styles and scripts run under `nonce`.
pub fn text(nonce: &str) -> String {
    PAGE.replace("{{nonce}}", nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_small_and_needs_nobody_else() {
        let page = text("abc");
        assert!(page.len() < 120 << 10, "{} bytes", page.len());
        assert!(!page.contains("{{"), "every placeholder is filled in");
        assert_eq!(page.matches("nonce=\"abc\"").count(), 2);
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        let namespace = "http://www.w3.org/2000/svg";
        assert!(!page.replace(namespace, "").contains("http://"), "nothing comes from elsewhere");
        for forbidden in [
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=\"",
            "onclick=\"",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }
}
