//! Prometheus' text format, version 0.0.4: families with help and type, one sample a line.

use nokv_env::Durations;
use nokv_env::histogram::BOUNDS_NANOS;

/// The media type.
pub const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    families: Vec<Family>,
}

/// What is said of a metric once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// counter, gauge or histogram
    pub kind: &'static str,
    /// What it counts or measures.
    pub help: &'static str,
}

/// A number that may be missing.
pub trait Value {
    /// The number as text; `None`: it is not known, so there is no sample.
    fn text(&self) -> Option<String>;
}

impl Value for u64 {
    fn text(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for bool {
    fn text(&self) -> Option<String> {
        Some(u8::from(*self).to_string())
    }
}

impl Value for f64 {
    fn text(&self) -> Option<String> {
        Some(self.to_string()).filter(|_| self.is_finite())
    }
}

impl<V: Value> Value for Option<V> {
    fn text(&self) -> Option<String> {
        self.as_ref().and_then(Value::text)
    }
}

/// Names and values that tell the samples of one family apart.
pub type Labels = Vec<(&'static str, String)>;

impl Exposition {
    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Value) {
        self.gauges(name, help, [(Labels::new(), value)]);
    }

    /// Several of them.
    pub fn gauges<V: Value>(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) {
        self.family(Family { name, kind: "gauge", help });
        self.rows(name, rows);
    }

    /// A number that only grows, from the start of the process on.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: impl Value) {
        self.counters(name, help, [(Labels::new(), value)]);
    }

    /// Several of them.
    pub fn counters<V: Value>(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) {
        self.family(Family { name, kind: "counter", help });
        self.rows(name, rows);
    }

    /// Durations in buckets.
    pub fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, Durations)>,
    ) {
        self.family(Family { name, kind: "histogram", help });
        for (labels, durations) in rows {
            let mut total = 0;
            let bounds = BOUNDS_NANOS.iter().map(|bound| (*bound as f64 / 1e9).to_string());
            for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(durations.counts) {
                total += count;
                let with_bound = [labels.clone(), vec![("le", bound)]].concat();
                self.sample(&format!("{name}_bucket"), &with_bound, &total);
            }
            self.sample(&format!("{name}_sum"), &labels, &(durations.sum_nanos as f64 / 1e9));
            self.sample(&format!("{name}_count"), &labels, &total);
        }
    }

    /// What is on the page.
    #[cfg(test)]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, family: Family) {
        debug_assert!(self.families.iter().all(|known| known.name != family.name), "{family:?} twice");
        let Family { name, kind, help } = family;
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        self.families.push(family);
    }

    fn rows<V: Value>(&mut self, name: &str, rows: impl IntoIterator<Item = (Labels, V)>) {
        for (labels, value) in rows {
            self.sample(name, &labels, &value);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&'static str, String)], value: &dyn Value) {
        let Some(value) = value.text() else { return };
        self.text.push_str(name);
        if !labels.is_empty() {
            let pairs: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            self.text.push_str(&format!("{{{}}}", pairs.join(",")));
        }
        self.text.push_str(&format!(" {value}\n"));
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_this_text() {
        let mut page = Exposition::default();
        page.gauge("a_bytes", "Bytes.", Some(7u64));
        page.gauge("b", "Not known.", None::<u64>);
        page.counters("c_total", "Counted.", [(vec![("who", "a\"\\\nb".to_owned())], 1.5)]);
        let mut durations = Durations::default();
        (durations.counts[0], durations.counts[17], durations.sum_nanos) = (2, 1, 20_000_000_000);
        page.histograms("d_seconds", "Times.", [(vec![("m", "x".to_owned())], durations)]);
        let text = page.into_text();
        let head = "# HELP a_bytes Bytes.\n# TYPE a_bytes gauge\na_bytes 7\n# HELP b Not known.\n# TYPE b gauge\n\
            # HELP c_total Counted.\n# TYPE c_total counter\nc_total{who=\"a\\\"\\\\\\nb\"} 1.5\n\
            # HELP d_seconds Times.\n# TYPE d_seconds histogram\nd_seconds_bucket{m=\"x\",le=\"0.00005\"} 2\n";
        assert!(text.starts_with(head), "{text}");
        let tail = "d_seconds_bucket{m=\"x\",le=\"10\"} 2\nd_seconds_bucket{m=\"x\",le=\"+Inf\"} 3\n\
            d_seconds_sum{m=\"x\"} 20\nd_seconds_count{m=\"x\"} 3\n";
        assert!(text.ends_with(tail), "{text}");
    }
}
