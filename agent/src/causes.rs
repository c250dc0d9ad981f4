//! An error with everything behind it, on one line.

/// `open the pin /x: no such file`: the error, and each of its sources that it does not name itself.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let words = e.to_string();
        if !out.ends_with(&words) {
            out.push_str(": ");
            out.push_str(&words);
        }
        next = e.source();
    }
    out
}
