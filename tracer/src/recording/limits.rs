//! What no recording holds more of: asked by who writes one and by who reads one, so that nothing is written
//! that would not be read.
//!
//! Lists are bounded as they are read ([`super::bounded`]). These are the sums, by which a file of a few KB
//! would take a multiple of the machine's memory: what is in a table once is copied for each row that names it.

use super::format::{Body, Owner, Site, most};

/// More than fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} are more than {most}")]
pub(super) struct Excess {
    what: &'static str,
    count: usize,
    most: usize,
}

/// Whether it is within bounds.
///
/// Errors: the first that it is not.
pub(super) fn check(body: &Body) -> Result<(), Excess> {
    let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let of_names = longest(&mut body.names.iter().map(String::len));
    let of_owners = longest(&mut body.owners.iter().flat_map(|owner| texts(owner).map(str::len)));
    let frames = |stacks: &[super::format::Stack]| sum(stacks.iter().map(|stack| stack.len()));
    let sizes = Sizes::of(body);
    let of_sites: Vec<usize> = body.sites.iter().map(|site| sizes.site(site)).collect();
    let of_groups = body.groups.iter().map(|group| {
        let place = usize::try_from(group.site).unwrap_or(0).checked_sub(1);
        let site = place.and_then(|place| of_sites.get(place)).copied().unwrap_or(0);
        site.saturating_add(sizes.title(group.stack))
    });
    for (count, what, most) in [
        (of_names.max(of_owners), "bytes of one name", most::NAME),
        (frames(&body.stacks), "functions in stacks", most::FRAMES),
        (frames(&body.user_stacks), "functions in user stacks", most::FRAMES),
        (
            sum(body.sites.iter().map(|site| site.held.len())),
            "counts at points in time",
            most::COUNTS,
        ),
        (sum(of_sites.iter().copied()), "bytes of names of sites", most::SITE_NAMES),
        (sum(of_groups), "bytes of names of groups", most::GROUP_NAMES),
    ] {
        if count > most {
            return Err(Excess { what, count, most });
        }
    }
    Ok(())
}

fn sum(counts: impl Iterator<Item = usize>) -> usize {
    counts.fold(0, usize::saturating_add)
}

fn texts(owner: &Owner) -> impl Iterator<Item = &str> {
    let Owner {
        kind,
        comm,
        cgroup,
        unit,
        pod,
        namespace,
        container,
        pod_uid,
        container_id,
        pid: _,
        exited: _,
        cgroup_removed: _,
    } = owner;
    let others = [comm, cgroup, unit, pod, namespace, container, pod_uid, container_id];
    std::iter::once(kind.as_str()).chain(others.into_iter().flatten().map(String::as_str))
}

/// Lengths of what rows refer to.
struct Sizes<'a> {
    body: &'a Body,
    owners: Vec<usize>,
}

impl<'a> Sizes<'a> {
    fn of(body: &'a Body) -> Self {
        let owners = body.owners.iter().map(|owner| sum(texts(owner).map(str::len))).collect();
        Self { body, owners }
    }

    fn name(&self, place: u32) -> usize {
        let place = usize::try_from(place).ok();
        place.and_then(|place| self.body.names.get(place)).map_or(0, String::len)
    }

    /// Its owner, slab cache and function.
    fn site(&self, site: &Site) -> usize {
        let owner = site.owner.and_then(|place| self.owners.get(usize::try_from(place).ok()?));
        let names = [site.cache, site.function].into_iter().flatten();
        names.map(|place| self.name(place)).fold(owner.copied().unwrap_or(0), usize::saturating_add)
    }

    /// What a row of a stack is called by: its first functions.
    fn title(&self, stack: Option<i32>) -> usize {
        let place = stack.and_then(|place| usize::try_from(place).ok());
        let frames = place.and_then(|place| self.body.stacks.get(place));
        sum(frames.into_iter().flat_map(|frames| frames.iter().take(4)).map(|at| self.name(*at)))
    }
}
