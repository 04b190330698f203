//! x
#![allow(warnings)]
use kleak::probe::*;
fn main(){
 let (btf,tracefs)=Config::usual_places();
 let caches = std::env::args().any(|a|a=="cache");
 let c=Config{sizes:vec![512],caches,stacks:if std::env::args().any(|a|a=="all"){Stacks::All}else{Stacks::Auto},user_stacks:false,max_objects:1000000,follow_family:true,cgroups:CgroupSource::MemoryV1(4),stack_size:Some(16384),btf,tracefs};
 let t=std::time::Instant::now();
 let mut p=match Probe::load(&c){Ok(p)=>p,Err(e)=>{println!("{e}");std::process::exit(3)}};
 println!("loaded {:?} map bytes {}",t.elapsed(),p.map_bytes());
 p.attach(&c).unwrap(); p.start().unwrap();
 println!("attached {:?} {:?}",t.elapsed(), p.layout());
 let secs: u64 = std::env::args().nth(1).and_then(|s|s.parse().ok()).unwrap_or(3);
 std::thread::sleep(std::time::Duration::from_secs(secs));
 let t=std::time::Instant::now();
 p.detach();
 println!("detach {:?}",t.elapsed());
 let s=p.snapshot(0).unwrap();
 println!("snap {:?}",t.elapsed());
 let mut v:Vec<_>=s.groups.iter().collect(); v.sort_by_key(|x|std::cmp::Reverse(x.1.objects));
 for (k,g) in v.iter().take(15){ let f=s.sites.get(&k.site); println!("{} objs w{} stack {} {:x?} name {:?}", g.objects,g.weight,k.kernel_stack,f, f.and_then(|f|s.processes.get(&kleak_common::ProcessKey{start_ns:f.site.start_ns,tgid:f.site.tgid,_pad:0})).map(|p|String::from_utf8_lossy(&p.comm).into_owned())); 
   if let Some(st)=p.kernel_stack(k.kernel_stack){ println!("   {:x?}",&st[..st.len().min(8)]); } }
 println!("{:?} missed {:?} cg {:?} sites {} procs {}", s.tally,s.missed_events,s.cgroup_events,s.sites.len(),s.processes.len());
 println!("{:?}", p.cgroup_changes());
}
