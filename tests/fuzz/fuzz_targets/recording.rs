//! Recordings that anybody may have written: an error, or a report that steers no terminal. Input that begins
//! with `{` is what is in a frame, and is packed soundly first; seeds of both kinds are in
//! `../fixtures/recordings`.
#![no_main]

use std::{
    io::{Cursor, Write as _},
    path::Path,
    time::Duration,
};

use kleak::{
    analyse::{self, By},
    recording::{Frame, Look, Recording},
    report::text,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = if bytes.first() == Some(&b'{') { packed(bytes) } else { bytes.to_vec() };
    let Ok(mut recording) = Recording::read(Cursor::new(file), Path::new("run.kleak")) else {
        return;
    };
    let Ok(last) = recording.last() else { return };
    for place in recording.intervals() {
        if let Ok(Some(frame)) = recording.frame(place) {
            look(frame, &Look::default());
        }
    }
    for note in recording.notes(&last) {
        assert!(!note.contains(char::is_control));
    }
    look(last.clone(), &Look::default());
    for by in [By::Pod, By::Cache, By::Stack, By::Site] {
        let age = Some(Duration::from_secs(7));
        look(last.clone(), &Look { by: Some(by), min_age: age, ..Look::default() });
    }
    look(last, &Look { by: Some(By::Cgroup), sizes: vec![512], ..Look::default() });
});

fn look(mut frame: Frame, at: &Look) {
    let Ok((options, _)) = at.apply(&mut frame) else { return };
    let report = analyse::analyse(&frame.evidence, &options);
    let profile = analyse::profile(&frame.evidence, &options);
    assert_eq!(report.owners.is_empty(), profile.samples.is_empty() || options.top == Some(0));
    let mut out = Vec::new();
    assert!(text::render(&report, &text::Style::default(), &mut out).is_ok());
    let printed = String::from_utf8_lossy(&out);
    assert!(!printed.contains(|c: char| c.is_control() && c != '\n'));
}

/// A recording of one frame.
fn packed(lines: &[u8]) -> Vec<u8> {
    let mut file = b"\x50\x2a\x4d\x18\x13\0\0\0kleak.recording/1 \n".to_vec();
    let mut frame = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("memory");
    frame.include_checksum(true).expect("an option that there is");
    frame.write_all(lines).expect("memory");
    file.extend(frame.finish().expect("memory"));
    file
}
