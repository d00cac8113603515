package decide_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// ready is the trio with a standby that could take over now.
func ready(t testing.TB) *lab {
	l := trio(t)
	l.standbySays(5000)
	l.say("B", func(r *decide.Report) { r.Server.State, r.Applied = decide.ServerReplica, 5000 })
	return l
}

func (l *lab) standbySays(applied int64) {
	b := link("backup", 5000)
	b.Applied = 5000
	l.primarySays(b, link("witness", 5000))
}

// advice is what a refusal must hold: something to do.
var advice = regexp.MustCompile(`; (use|wait|start|name|look at|if they are lost|if the others are lost)|^name the node`)

func TestPlanSwitchover_Refusals(t *testing.T) {
	for _, tt := range []struct {
		name, to, want string
		change         func(*lab)
	}{
		{"NoGroup", "backup", "knows of no group", func(l *lab) { l.o.State = facts.State{} }},
		{"NeverOpened", "backup", "never had a primary", func(l *lab) { *l = *founded(l.t) }},
		{"OrderStands", "backup", "is not finished", func(l *lab) { l.must(order(l, facts.OrderFailover, "B", false)) }},
		{"PrimaryIsSilent", "backup", "no primary is open", func(l *lab) { l.silence("A") }},
		{"PrimaryIsLocked", "backup", "no primary is open", func(l *lab) {
			l.say("A", func(r *decide.Report) { r.Server.State = decide.ServerLocked })
		}},
		{"NoPrimary", "backup", "no primary is open", func(l *lab) { l.must(begin(l)) }},
		{"UnknownNode", "nobody", `no node "nobody"`, nil},
		{"Witness", "witness", "has no PostgreSQL", nil},
		{"ThePrimary", "main", "is the primary already", nil},
		{"Unseeded", "backup", "no complete base", func(l *lab) { l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}}) }},
		{"NoVote", "backup", "no WAL vote", func(l *lab) { l.must(facts.Command{DropVoter: &facts.DropVoter{Store: "B"}}) }},
		{"Silent", "backup", "is not heard", func(l *lab) { l.silence("B") }},
		{"NobodyIsReady", "", "no standby is ready", func(l *lab) { l.silence("B") }},
		{"NoMajority", "fourth", "are heard, a switchover needs 3", func(l *lab) { fourAndFive(l) }},
		{"NoLink", "backup", "does not stream", func(l *lab) { l.primarySays() }},
		{"Connecting", "backup", "does not stream", func(l *lab) { l.primarySays(decide.Link{Peer: "backup", State: "connecting"}) }},
		{"NotRunning", "backup", "is stopped", func(l *lab) {
			l.say("B", func(r *decide.Report) { r.Server.State = decide.ServerStopped })
		}},
		{"Behind", "backup", "20 MiB behind", func(l *lab) {
			b := link("backup", 30<<20)
			b.Applied = 10 << 20
			l.primarySays(b)
			l.say("A", func(r *decide.Report) { r.Received = 30 << 20 })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := ready(t)
			if tt.change != nil {
				tt.change(l)
			}
			checkRefusal(t, decide.PlanSwitchover(l.o, tt.to), tt.want)
		})
	}
}

func checkRefusal(t *testing.T, r decide.Request, want string) {
	t.Helper()
	if !strings.Contains(r.Refused, want) || r.Order != nil || r.Reform || len(r.Steps) != 0 {
		t.Fatalf("%+v, want a refusal with %q", r, want)
	}
	if !advice.MatchString(r.Refused) {
		t.Errorf("%q does not say what to do", r.Refused)
	}
}

// fourAndFive adds two voters and silences all but two of five.
func fourAndFive(l *lab) {
	for _, m := range []facts.Member{{Name: "fourth", Store: "D", Kind: facts.KindData, Address: "d:1"}, {Name: "fifth", Store: "E", Kind: facts.KindData, Address: "e:1"}} {
		l.must(facts.Command{AddMember: &facts.AddMember{Member: m, Expect: l.o.State.MembersVersion}})
		l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: m.Store, Committed: 200}})
		l.must(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: m.Store, Acked: 200, VotersVersion: l.o.State.Voters.Version}})
		l.must(confirm(l), facts.Command{MarkSeeded: &facts.MarkSeeded{Store: m.Store, Seeded: true}})
	}
	l.say("D", nil)
	l.silence("B")
	l.silence("W")
}

func TestPlanSwitchover(t *testing.T) {
	for _, to := range []string{"backup", ""} {
		l := ready(t)
		r := decide.PlanSwitchover(l.o, to)
		if r.Refused != "" || r.From != "main" || r.To != "backup" || len(r.Steps) < 4 || r.Statement != "" {
			t.Fatalf("%+v", r)
		}
		o := *r.Order
		if o.Kind != facts.OrderSwitchover || o.To != "B" || o.Force || !o.Deadline.After(l.o.Now) || o.Epoch != epoch(1) {
			t.Errorf("%+v", o)
		}
		o.ID = "x"
		l.must(facts.Command{SetOrder: &facts.SetOrder{Expect: l.o.State.Primary.Version, Order: o}})
		l.quiet()
	}
	l := ready(t) // of several, the one that has applied most
	fourAndFive(l)
	l.say("B", nil)
	l.say("W", nil)
	l.say("D", func(r *decide.Report) { r.Server.State, r.Applied = decide.ServerReplica, 9000 })
	d := link("fourth", 5000)
	d.Applied = 5000
	l.primarySays(d)
	if r := decide.PlanSwitchover(l.o, ""); r.To != "fourth" {
		t.Errorf("%+v", r)
	}
}

func TestPlanFailover_Refusals(t *testing.T) {
	alone := func(l *lab) { l.silence("A"); l.silence("W") }
	for _, tt := range []struct {
		name, to, want string
		force          bool
		change         func(*lab)
	}{
		{"NoGroup", "backup", "knows of no group", true, func(l *lab) { l.o.State = facts.State{} }},
		{"OrderStands", "backup", "is not finished", false, func(l *lab) { l.must(order(l, facts.OrderFailover, "B", false)) }},
		{"NoName", "", "name the node", false, nil},
		{"Healthy", "backup", "use: understudy switchover --to backup", false, nil},
		{"Witness", "witness", "has no PostgreSQL", true, nil},
		{"Silent", "backup", "is not heard", true, func(l *lab) { l.silence("B") }},
		{"NoMajorityElsewhere", "backup", "run the command with --force on backup itself", true, alone},
		{"NoMajority", "backup", "switched off, use --force", false, func(l *lab) {
			alone(l)
			l.o.SelfStore = "B"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := ready(t)
			if tt.change != nil {
				tt.change(l)
			}
			checkRefusal(t, decide.PlanFailover(l.o, tt.to, tt.force), tt.want)
		})
	}
}

func TestPlanFailover(t *testing.T) {
	l := ready(t)
	l.silence("A")
	r := decide.PlanFailover(l.o, "backup", false)
	if r.Refused != "" || r.From != "main" || r.Order.Kind != facts.OrderFailover || r.Order.Force || r.Statement != "" || len(r.Steps) == 0 {
		t.Fatalf("%+v", r)
	}
	l = ready(t)
	r = decide.PlanFailover(l.o, "backup", true) // a healthy one, by force
	if r.Refused != "" || !r.Order.Force || r.Order.Statement != r.Statement {
		t.Fatalf("%+v", r)
	}
	for _, part := range []string{"main is open", "cut off", "2s", "loss proof"} {
		if !strings.Contains(r.Statement, part) {
			t.Errorf("%q does not say %q", r.Statement, part)
		}
	}
	l.must(begin(l)) // while there is no primary it is still who was
	if r := decide.PlanFailover(l.o, "backup", false); r.Refused != "" || r.From != "main" {
		t.Errorf("%+v", r)
	}
}

func TestPlanFailover_Reform(t *testing.T) {
	l := ready(t)
	l.silence("A")
	l.silence("W")
	l.o.SelfStore = "B"
	l.say("B", func(r *decide.Report) { r.Durable = 0x500 })
	r := decide.PlanFailover(l.o, "backup", true)
	if !r.Reform || r.Order != nil || r.Refused != "" || len(r.Steps) == 0 {
		t.Fatalf("%+v", r)
	}
	for _, part := range []string{"backup alone", "main", "witness", "0/500"} {
		if !strings.Contains(r.Statement, part) {
			t.Errorf("%q does not say %q", r.Statement, part)
		}
	}
	l = pair(t)
	l.silence("A")
	l.o.SelfStore = "B"
	r = decide.PlanFailover(l.o, "backup", true)
	if !r.Reform || !strings.Contains(r.Statement, "If main lived for more than 10s after backup last heard it") {
		t.Errorf("%+v", r)
	}
	l.wait(time.Second)
	if again := decide.PlanFailover(l.o, "backup", true); again.Statement != r.Statement {
		t.Errorf("the statement to confirm moves: %q, %q", r.Statement, again.Statement)
	}
}
