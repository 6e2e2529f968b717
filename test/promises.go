// Package test holds the product to its promises as its users meet it: the real
// command, the real kernel, real NATS servers.
//
// The test binary runs in a user and network namespace of its own, and most tests, nine
// at a time, in one more for each (netnstest.Parallel). Every server and bridge that
// a test starts runs there too, and ends with it, so that nothing on the machine is in
// the way. Those that look at all namespaces run before the others, one by one. What a
// machine does not have is said by a skipped test, and by a line at the end; it is a
// failure when IFACE_TEST_REQUIRE (netns, ip, nft, …) says that it must be there.
// Package harness has what tests are made of.
//
// # Which test holds which promise
//
//	Nothing is lost silently
//	    every notification is an event             TestEveryNotificationIsAnEvent
//	    or is folded into one that says so         TestCoalesce, TestLongOutage
//	    overruns are said, and made good           TestSoak, TestNamespaceChurn, TestWatcher
//	    by default they do not come                TestManyLinksAtOnce
//	    the kernel's calls fail for a while        TestPassingErrorsOfTheKernel, TestPassingErrorsAtTheStart,
//	                                               TestNothingIsLostWhileReadingFails
//	    a sandbox refuses something                TestSandboxes
//	    nothing waits for the next to come         TestLastNotificationIsNotLate, TestListenerLosesNoWakeUp,
//	                                               TestSpoolHasRoomAfterAFailure, TestWindowWhenTheClockIsSetBack,
//	                                               TestWritesEnd, TestSlowWrites,
//	                                               TestFinderTellsWhatCameBeforeTheWait
//	    what is folded is what happened            FuzzQueue, TestEncoderAppendsChanges
//	    what the kernel does not announce          TestParityWithIP
//	    an event that is too large                 TestTruncated, TestEncoderFits, TestEventIsGivenUp,
//	                                               TestSnapshotEndsWithAnEventThatIsGivenUp
//	Order, each once, whatever happens to NATS
//	    a machine is stopped, put back, or cloned  TestMachine, TestMachineIsSavedBeforeItConnects,
//	                                               TestStoryIsJudged, TestNewEpochInAClone, TestAnswersOfAClone
//	    the server is killed                       TestServerKilled, TestCoreServerKilled
//	    the server is down, stalled, moving        TestServerIsDown, TestServerStalled, TestLameDuck
//	    a cluster loses servers, or is cut         TestClusterServersKilled, TestPartitions
//	    the stream or the bucket is deleted        TestStreamDeleted, TestBucket
//	    the server takes less than we send         TestBatchLimit, TestOpenBatchesLimit
//	    the server refuses something               TestRefusals, TestBringYourOwnStream
//	    streams as operators make them             TestStreamsAsOperatorsMakeThem, TestStreamLearnsToTakeBatches,
//	                                               TestLargeEventsOfASmallStream, TestInspectStream
//	    accounts, mappings, small messages         TestAccountDemandsMaxBytes, TestAccountMayNotBeAsked,
//	                                               TestSubjectMapping, TestSmallPayload
//	    buckets as operators make them             TestBucketWithTTL, TestBucketOfSmallValues, TestFullBucket,
//	                                               TestBucketWithoutPurges, TestBucketLimitIsRaised
//	    another stream answers, too                TestHubAndLeafBothAnswer, TestAcknowledgmentsFromElsewhere
//	    many hosts at once                         TestPowerUpAndFailovers, TestHubAndLeaves, TestSuperCluster
//	    the broker loses what it had confirmed     TestBrokerLosesWhatItConfirmed, TestBrokerLosesTheRetelling,
//	                                               TestSpoolWhenTheBrokerLosesTheMiddle,
//	                                               TestStoryIsJudged, TestLeftoversAreJudged
//	    TLS, WebSockets, other versions            TestStormsOverEachTransport, TestServerVersions
//	One owner of a name
//	    one bridge owns a name, others stand by    TestOneOwnerOthersStandBy, TestTwoMachinesOfOneName,
//	                                               TestSpoolComesTooLate, TestTakeoverTellsNoPast,
//	                                               TestStoppedWhileStandingBy, TestSpoolIsAbandoned
//	    and keeps it when NATS was restarted       TestOwnerIsGone
//	    a bridge, or its host, stands still        TestBridgeIsFrozen, TestMachine
//	    a host that is not named yet, or renamed   TestHostsAreNamed, TestHostnameCannotBeFollowed,
//	                                               TestHostnameCannotBeReadForAWhile, TestRenamedWhileNATSIsAway
//	Bounded
//	    memory in an outage, with many links       TestLongOutage, TestMemoryInAnOutage, TestMemoryInAStorm,
//	                                               TestManyLinks
//	    what the queue holds                       TestQueueForgetsWhatNobodySaw,
//	                                               TestQueueForgetsNamespacesThatNobodySaw, TestQueueIsBoundedInBytes,
//	                                               TestSpoolIsBounded, TestSpoolTakesTheRestOfTheQueue
//	    no work when nothing happens               TestIdle
//	    a large link costs what it is              TestLargeLinkAmongMany, TestLargeLinks
//	    no memory for an event                     TestEventAllocates
//	Late joiners are whole
//	    by the stream                              TestLifeOfALink, TestSoak, TestStreamFromItsBeginning
//	    snapshots that are told again              TestStreamFromItsBeginning, TestSnapshotOnRequest,
//	                                               TestRenewalsSpread, TestSnapshotAnswersWhoAskedBefore,
//	                                               TestRequestsLeaveTimeForEvents
//	    by the bucket                              TestBucket, TestBucketOfManyLinks, TestReboot
//	    hosts that do not come back                TestForget, TestForgottenUnheard, TestForgetSilentHosts,
//	                                               TestLifeOfAFleet
//	    by the bucket of hosts, who is there       TestHostsAreInTheirBucket, TestHostsBucketWithoutMarkers,
//	                                               TestHostsBucketLearnsToMark, TestFleetKnowsWhoIsThere
//	    by a question                              TestQuery, TestFleetPresence, TestFleetIsJoinedWhileNATSIsAway,
//	                                               TestFleetDoesNotWaitForSilentHosts, TestSubscribingAnew
//	    of a host that stores nothing              TestLinksOfHostsThatStoreNothing
//	    of a fleet that takes long to read         TestCatchingUpTakesAsLongAsSomethingComes
//	    consumers in Go                            TestFleet, TestFleetBucketMadeAnew, TestFleetEndsWithItsConnection,
//	                                               TestFleetEndsWhileJetStreamIsMute
//	    a consumer that was away                   TestConsumersResume, TestFleetResumesBeyondTheEdge,
//	                                               TestNoPlaceIsGivenBeforeItsEvent, TestExpiredIsGivenOnce,
//	                                               TestStreamIsPurgedWhileItIsRead
//	Across a crash, and the end
//	    the bridge is killed                       TestBridgeKilled, TestSpoolSurvivesCrash,
//	                                               TestSpoolSurvivesCrashInCore, TestSpoolSendsWhatIsOnDisk,
//	                                               TestSpoolOfALinkThatIsGoneInCore
//	    it is stopped                              TestSigterm, TestSpoolAtStop, TestPresenceHoldsUpNoStop
//	    the disk is full, or the spool damaged     TestSpoolOnFullDisk, TestSpoolDamaged,
//	                                               TestSpoolOfAFailingSystem
//	Links, as ip shows them
//	    every field of every kind                  TestParityWithIP, TestInfoData, TestCorpus, TestFunctions
//	    on other kernels, with kinds of their own  TestKernels, TestGuestKinds, TestGuestSoak
//	    a failover of a bond, a blocked port       TestGuestBondFailover, TestGuestLoop
//	    the kernel's numbers                       TestConstantsAreTheKernels
//	    a rename keeps its history                 TestRenameKeepsHistory, TestLifeOfALink
//	    another hardware type, another container   TestLinkTypeChanges, TestDumpFindsHardwareType,
//	                                               TestContainerMadeAgain
//	    any bytes in a name                        TestBytes
//	    what is published, and what not            TestFilters, TestNamespaceFilter
//	Network namespaces
//	    they come, go, and are renamed             TestNamespaces, TestNamespaceEnds, TestNamespaceEndsWhileDown,
//	                                               TestNamespaceNamesSwapped,
//	                                               TestFinderTellsWhatCameBeforeTheWait
//	    links move between them                    TestMoves, TestMovesBetweenNamespaces
//	    nothing is left behind                     TestNamespaceCost
//	    without the privilege the rest works       TestNamespacePrivilege
//	What operators see
//	    which site, which rack                     TestHostsHaveLabels, TestLabels
//	    the table of watch                         TestWatchTable, TestWatchBeginsWithThePast, TestPictureOfWatch
//	    exit status, mistakes                      TestExitStatusOfMistakes, TestExitStatuses, TestDoctor,
//	                                               TestInterrupted, TestOutputIsNotTaken
//	    health, metrics, alerts, systemd           TestHealth, TestReadyzIsPatient, TestMetrics,
//	                                               TestHealthcheckGoesStraight, TestDashboardAndAlerts,
//	                                               TestAlertsOfAStandby, TestSystemdNotify,
//	                                               TestPublisherWaitsForTheKernel
//	    credentials and permissions                TestAuthentication, TestPermissions, TestPermissionsWithJWTs,
//	                                               TestAdviceCanBePasted, TestUserOfAnotherHost,
//	                                               TestSubscriptionsAreGranted, TestRotation,
//	                                               TestRefusedCredentialsDoNotHammer, TestCredentialsThatEnd
//	    contexts, and what would be ignored        TestContexts, TestContextAPIPrefixAsUsual,
//	                                               TestSettingsThatWouldBeIgnored
//	    how servers are reached                    TestWaysToAServer, TestWrongWaysToAServer
//	    domains, prefixes, inboxes                 TestJetStreamDomain, TestJetStreamOfAnotherAccount,
//	                                               TestReadersOfAnotherAccount, TestTwoPrefixesDoNotMeet,
//	                                               TestInboxesAreOnesOwn
//	    the README is true                         TestReadme, TestCommandsInGuidesAreRun, TestRecipesForNATS,
//	                                               TestRecipesInLanguages, TestRecipesIgnoreWhatIsNoEvent
//	    the tests are the same for everybody       TestTestersEnvironment, TestNamespacesThatAreOfNoUse,
//	                                               TestUnsupportedKinds, TestFlushesHavePatience,
//	                                               TestPatienceIsWithStandstill
//	    from its words alone                       TestFirstSteps, TestCompose, TestDeb
//	    every message is explained                 TestTroubleshootingHasEveryMessage
//	    other modules, another address             TestAnotherModule, TestRename
//	    image, packages                            TestImageAuthorities, TestImageInANetworkOfItsOwn, TestDeb, TestRPM
//	    manifests, documents                       TestKustomizations, TestComposeFile, TestAsyncAPIHolds,
//	                                               TestAsyncAPIIsComplete
//	Within v1 fields are only added                TestFieldsAreKept, TestCorpus, TestNewerWriter
package test
