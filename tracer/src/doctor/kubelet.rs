//! At how much available memory kubelet evicts: by its command line, else by its configuration file.

use super::facts::{Kubelet, Threshold};

/// Reads thresholds out of kubelet's command line (`--eviction-hard=memory.available<500Mi,…`).
pub(super) fn of_command_line(arguments: &[u8], into: &mut Kubelet) {
    let arguments: Vec<String> = arguments
        .split(|&byte| byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    for (index, argument) in arguments.iter().enumerate() {
        let argument = argument.trim_start_matches('-');
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument, arguments.get(index + 1).map(String::as_str)),
        };
        let threshold = || {
            value?.split(',').find_map(|signal| {
                let (name, threshold) = signal.split_once('<')?;
                if name.trim() == "memory.available" { parse(threshold) } else { None }
            })
        };
        match name {
            "eviction-hard" => into.hard = threshold().or(into.hard),
            "eviction-soft" => into.soft = threshold().or(into.soft),
            _ => {}
        }
    }
}

/// The file named by `--config`.
pub(super) fn config_file(arguments: &[u8]) -> Option<String> {
    let mut arguments = arguments.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    while let Some(argument) = arguments.next() {
        let argument = argument.trim_start_matches('-');
        if argument == "config" {
            return arguments.next().map(std::borrow::Cow::into_owned);
        }
        if let Some(file) = argument.strip_prefix("config=") {
            return Some(file.to_owned());
        }
    }
    None
}

/// Reads thresholds out of a `KubeletConfiguration`, as far as the command line has not set them. Only
/// the block form is understood, which is what kubeadm and people write.
pub(super) fn of_config(text: &str, into: &mut Kubelet) {
    let mut block = None;
    let mut found = [None; 2];
    for line in text.lines() {
        let content = line.split(" #").next().unwrap_or(line).trim_end();
        let Some((key, value)) = content.split_once(':') else { continue };
        if !content.starts_with(char::is_whitespace) {
            block = match key {
                "evictionHard" => Some(0),
                "evictionSoft" => Some(1),
                _ => None,
            };
        } else if let Some(slot) = block.and_then(|block: usize| found.get_mut(block))
            && unquoted(key) == "memory.available"
        {
            *slot = parse(unquoted(value));
        }
    }
    let [hard, soft] = found;
    into.hard = into.hard.or(hard);
    into.soft = into.soft.or(soft);
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

/// A quantity as Kubernetes writes it (`500Mi`, `1G`, `1048576`), or a share (`12%`).
fn parse(text: &str) -> Option<Threshold> {
    let text = text.trim();
    if let Some(percent) = text.strip_suffix('%') {
        let share =
            percent.trim().parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share))?;
        #[expect(clippy::cast_possible_truncation, reason = "at most 1000")]
        #[expect(clippy::cast_sign_loss, reason = "checked above")]
        return Some(Threshold::PerMille((share * 10.0).round() as u64));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).map(Threshold::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn thresholds_of_the_command_line() {
        let mut kubelet = Kubelet::default();
        let line = b"/usr/bin/kubelet\0--config=/etc/k.yaml\0--eviction-soft\0\
                     nodefs.available<10%,memory.available<12%\0--eviction-hard=memory.available<500Mi\0";
        of_command_line(line, &mut kubelet);
        assert_eq!(kubelet.hard, Some(Threshold::Bytes(500 << 20)));
        assert_eq!(kubelet.soft, Some(Threshold::PerMille(120)));
        assert_eq!(config_file(line).as_deref(), Some("/etc/k.yaml"));
        assert_eq!(config_file(b"kubelet\0--config\0/a\0").as_deref(), Some("/a"));
        assert_eq!(config_file(b"kubelet\0"), None);
        assert_eq!(kubelet.soft.unwrap().bytes(1 << 30), 128_849_018);
    }

    #[test]
    fn thresholds_of_a_file() {
        let text = "kind: KubeletConfiguration\nevictionHard:\n  imagefs.available: 15%\n  \
                    memory.available: \"500Mi\" # of the node\nevictionSoft:\n  \
                    'memory.available': 12%\nevictionSoftGracePeriod:\n  memory.available: 1m30s\n";
        let mut kubelet = Kubelet::default();
        of_config(text, &mut kubelet);
        assert_eq!(kubelet.hard, Some(Threshold::Bytes(500 << 20)));
        assert_eq!(kubelet.soft, Some(Threshold::PerMille(120)));
        // The command line wins.
        let mut kubelet = Kubelet { hard: Some(Threshold::Bytes(1)), soft: None };
        of_config(text, &mut kubelet);
        assert_eq!(kubelet.hard, Some(Threshold::Bytes(1)));
    }

    #[test]
    fn nonsense_is_no_threshold() {
        for text in ["", "Mi", "-5Mi", "5MB", "120%", "x%", "99999999999999999999", "1e9"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}", bytes: Vec<u8>) {
            of_config(&text, &mut Kubelet::default());
            of_command_line(&bytes, &mut Kubelet::default());
            config_file(&bytes);
            parse(&text);
        }
    }
}
